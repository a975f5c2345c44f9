"""Output files: checked before any work is done, complete or not there at all afterwards."""

import os
import secrets
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from af_runtime.errors import RequestError


def checked_output(
    path: str | os.PathLike[str], suffixes: Collection[str], inputs: Collection[object] = ()
) -> Path:
    """Return ``path`` if a file can be written there, else raise `RequestError`.

    ``suffixes`` are the endings allowed; ``inputs`` are files that must not be overwritten.
    """
    out = Path(path)
    if out.suffix.lower() not in suffixes:
        raise RequestError(
            f"The output {out} must end in {' or '.join(suffixes)}, "
            f"not in {out.suffix or 'nothing'}."
        )
    if out.is_dir():
        raise RequestError(f"The output {out} is a folder; give a file name in it.")
    if not out.parent.is_dir():
        raise RequestError(f"The folder {out.parent} of the output {out.name} does not exist.")
    if out.exists() and not out.is_file():
        raise RequestError(f"The output {out} is not a regular file and is not overwritten.")
    for source in inputs:
        if isinstance(source, str | os.PathLike) and _same_file(out, Path(source)):
            raise RequestError(f"The output {out} is also an input; give it another name.")
    _try_to_write(out)
    return out


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path in the same folder; rename it at the end, remove it on an error."""
    part = temporary_beside(path)
    try:
        yield part
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def temporary_beside(path: Path) -> Path:
    """Return an unused hidden name in the folder of ``path``, so that a rename is atomic."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")


def _try_to_write(path: Path) -> None:
    probe = temporary_beside(path)
    try:
        probe.touch()
        probe.unlink()
    except OSError as e:
        raise RequestError(f"Nothing can be written to {path.parent}: {e.strerror}.") from e


def _same_file(one: Path, other: Path) -> bool:
    return one.exists() and other.exists() and one.samefile(other)
