"""The lock file: which commit of which repository every file came from, and what it holds."""

from collections.abc import Iterable
from pathlib import Path

import msgspec

from af_runtime.errors import RequestError
from af_runtime.outputs import replacing

LOCK_FILE = "af-download.lock.json"


class LockedFile(msgspec.Struct, frozen=True):
    """A file that is whole and was verified."""

    part: str
    source: str
    file: str
    """Its name in the repository."""
    commit: str
    """Commit it was taken from."""
    size: int
    digest: str
    """What the hub calls its content: a SHA-256, or the SHA-1 of git for small files."""
    sha256: str
    """SHA-256 of the file as it was verified here."""


class LockedSource(msgspec.Struct, frozen=True):
    """A repository at one commit."""

    repo: str
    asked: str
    """Branch, tag or commit that was asked for last."""
    commit: str
    """The commit it stood for then, which later downloads take."""


class Lock(msgspec.Struct, frozen=True):
    """Contents of the lock file. A later download takes the same commits unless told otherwise."""

    name: str
    schema_version: int = 1
    sources: dict[str, LockedSource] = {}
    files: dict[str, LockedFile] = {}
    """By path in the folder."""
    parts: list[str] = []
    """Parts of which every file is there."""

    def holds(self, folder: Path, path: str) -> bool:
        """Whether a file was verified and still has its size; it is not read again."""
        entry, file = self.files.get(path), folder / path
        return entry is not None and file.is_file() and file.stat().st_size == entry.size

    def holds_part(self, folder: Path, part: str) -> bool:
        """Whether every file of a part was verified and is still there."""
        own = [path for path, file in self.files.items() if file.part == part]
        return part in self.parts and all(self.holds(folder, path) for path in own)

    def with_source(self, name: str, source: LockedSource) -> "Lock":
        """Return the lock with the commit of a repository."""
        return msgspec.structs.replace(self, sources={**self.sources, name: source})

    def with_file(self, path: str, file: LockedFile) -> "Lock":
        """Return the lock with one more file."""
        return msgspec.structs.replace(self, files={**self.files, path: file})

    def without_parts(self, parts: Iterable[str]) -> "Lock":
        """Return the lock with these parts no longer known to be whole."""
        return msgspec.structs.replace(self, parts=sorted({*self.parts} - {*parts}))

    def with_parts(self, parts: Iterable[str]) -> "Lock":
        """Return the lock with parts of which every file is there."""
        return msgspec.structs.replace(self, parts=sorted({*self.parts, *parts}))


def read_lock(folder: Path, name: str) -> Lock:
    """Return the lock of a folder, empty if it has none; refuse that of another checkpoint."""
    path = folder / LOCK_FILE
    if not path.is_file():
        return Lock(name)
    try:
        lock = msgspec.json.decode(path.read_bytes(), type=Lock)
    except msgspec.DecodeError as e:
        raise RequestError(
            f"{path} cannot be read ({e}); remove it to check every file anew."
        ) from e
    if lock.name != name:
        raise RequestError(f"{folder} holds {lock.name}, not {name}; give another folder.")
    return lock


def write_lock(folder: Path, lock: Lock) -> None:
    """Write the lock of a folder, whole or not at all."""
    with replacing(folder / LOCK_FILE) as part:
        part.write_bytes(msgspec.json.format(msgspec.json.encode(lock), indent=1) + b"\n")
