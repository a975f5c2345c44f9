"""Small JSON files of long jobs: whole or not there, and never mistaken for another job's."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from af_core.errors import AvatarForcingError

StructT = TypeVar("StructT", bound=msgspec.Struct)


class AnotherJobError(AvatarForcingError):
    """A directory holds what another job has made."""


def write_whole(path: Path, data: bytes) -> None:
    """Write a file that is whole or not there, whoever else writes it."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    partial.write_bytes(data)
    partial.replace(path)


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON."""
    write_whole(path, msgspec.json.format(msgspec.json.encode(value), indent=1))


def read_json(path: Path, kind: type[StructT]) -> StructT:
    """Read a value; raises ``AnotherJobError`` for a file that holds something else."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except msgspec.MsgspecError as error:
        raise AnotherJobError(f"{path} cannot be read ({error}). Remove it and go on.") from error


def claim(path: Path, job: msgspec.Struct, ignoring: tuple[str, ...] = ()) -> None:
    """Leave ``job`` at ``path``, or insist that the job that is there already is the same.

    Raises ``AnotherJobError`` with the fields that differ; those in ``ignoring`` may.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        write_json(path, job)
        return
    require_same(path.parent, read_json(path, type(job)), job, ignoring)


def require_same(
    directory: Path, there: msgspec.Struct, job: msgspec.Struct, ignoring: tuple[str, ...] = ()
) -> None:
    """Raise ``AnotherJobError`` with everything in which a job differs from what is there."""
    told = [
        f"{name} was {was!r}, is {now!r}"
        for name, was, now in _differing("", _plain(there), _plain(job))
        if name.partition(".")[0] not in ignoring
    ]
    if told:
        raise AnotherJobError(
            f"{directory} holds the work of another job: {'; '.join(told)}. Take another "
            "directory, or the settings it was begun with."
        )


def _plain(job: msgspec.Struct) -> Any:
    """Return a job as JSON would give it back: what is compared with a file must be no tuple."""
    return msgspec.json.decode(msgspec.json.encode(job))


def _differing(path: str, was: Any, now: Any) -> Iterator[tuple[str, Any, Any]]:
    if was == now:
        return
    if not (isinstance(was, dict) and isinstance(now, dict)):
        yield path, was, now
        return
    for name in {**was, **now}:
        below = f"{path}.{name}" if path else name
        yield from _differing(below, was.get(name), now.get(name))
