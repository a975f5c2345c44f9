"""The file of a recording: records one after another, each with its length and checksum.

    b"AFREC1\\r\\n"  ( length u32 | CRC-32 u32 | payload )*       little-endian

A payload is ``header length u32 | header | buffer 0 | buffer 1 ...``. Records are only ever added
at the end. Whatever ends the writer, what is there before the last record is whole, and a reader
can tell the rest from a record.
"""

import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from af_runtime.errors import RecordingError

MAGIC = b"AFREC1\r\n"
MAX_RECORD_BYTES = 256 * 2**20
"""A record that claims to be longer is damage."""

_HEAD = struct.Struct("<II")
_COUNT = struct.Struct("<I")

Payload = tuple[bytes, memoryview]
"""The header of a record, and the bytes of all its buffers."""


class RecordWriter:
    """Adds records to a new file that only its owner may read."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        self.num_bytes = 0
        self._write(MAGIC)

    def add(self, header: bytes, buffers: Sequence[Any] = ()) -> None:
        """Add a record; raises OSError, and then no part of the record is left behind."""
        body = b"".join([_COUNT.pack(len(header)), header, *buffers])
        self._write(_HEAD.pack(len(body), zlib.crc32(body)) + body)

    def close(self) -> None:
        """Let the file reach the disk, and close it."""
        try:
            os.fsync(self._file)
        finally:
            os.close(self._file)

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._file, view) :]
        except OSError:
            os.ftruncate(self._file, self.num_bytes)
            raise
        self.num_bytes += len(data)


class RecordReader:
    """Reads the records of a file, as far as they are whole."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.num_lost_bytes = 0
        """Bytes at the end that are no whole record; known after the last record was read."""

    def __iter__(self) -> Iterator[Payload]:
        """Yield the whole records; raises `RecordingError` for what is no recording at all."""
        try:
            with self.path.open("rb") as file:
                yield from self._records(file)
        except OSError as e:
            raise RecordingError(f"{self.path} cannot be read: {e.strerror}.") from e

    def _records(self, file: BinaryIO) -> Iterator[Payload]:
        size = os.fstat(file.fileno()).st_size
        magic = file.read(len(MAGIC))
        if magic != MAGIC:
            raise RecordingError(
                f"{self.path} is no recording: it begins with {magic!r} and not with {MAGIC!r}. "
                "`af-runtime serve --record DIR` makes recordings."
            )
        whole = file.tell()
        while (payload := _next(file, size - whole)) is not None:
            yield payload
            whole = file.tell()
        self.num_lost_bytes = size - whole


def _next(file: BinaryIO, left: int) -> Payload | None:
    """Return the next payload; None if what is left is none that is whole."""
    head = file.read(_HEAD.size)
    if len(head) < _HEAD.size:
        return None
    length, checksum = _HEAD.unpack(head)
    if not _COUNT.size <= length <= min(left - _HEAD.size, MAX_RECORD_BYTES):
        return None
    body = file.read(length)
    if len(body) != length or zlib.crc32(body) != checksum:
        return None
    (count,) = _COUNT.unpack_from(body)
    if count > length - _COUNT.size:
        return None
    return body[_COUNT.size : _COUNT.size + count], memoryview(body)[_COUNT.size + count :]
