"""Digests of files: the SHA-256 that names a checkpoint, and git's name for a small file."""

import hashlib
from collections.abc import Callable
from pathlib import Path

_CHUNK = 1 << 24


def sha256_of(path: Path, on_bytes: Callable[[int], None] | None = None) -> str:
    """Return the SHA-256 of a file in hexadecimal; ``on_bytes`` hears how much was read."""
    return _digest(hashlib.sha256(), path, on_bytes)


def git_sha1_of(path: Path) -> str:
    """Return the SHA-1 by which git names a file of these contents."""
    header = b"blob %d\0" % path.stat().st_size
    return _digest(hashlib.sha1(header, usedforsecurity=False), path, None)


def _digest(digest: "hashlib._Hash", path: Path, on_bytes: Callable[[int], None] | None) -> str:
    done = 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            done += len(chunk)
            if on_bytes is not None:
                on_bytes(done)
    return digest.hexdigest()
