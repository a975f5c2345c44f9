"""Decodes one picture in a process of its own: bytes come in, pixels or an error go out, it ends.

What a stranger sends is decoded by a process that may use little memory and time, write no file
and know no secret; if the picture breaks it, nothing else breaks. Parent: `picture_decoder`.

In come a length, a request, and the file; out go a length, a reply, and RGB pixels.
"""

import contextlib
import io
import struct
import sys
from typing import IO

import msgspec
from PIL import Image

from af_runtime.errors import PortraitError
from af_runtime.pictures import decode_picture

MEMORY_BYTES = 2 << 30
"""Of address space; a picture of the most pixels takes a fifth."""

CPU_S = 20


class Request(msgspec.Struct, frozen=True):
    """What to call the picture in errors."""

    name: str


class Reply(msgspec.Struct, frozen=True):
    """The size of the pixels that follow, or what was wrong."""

    size: tuple[int, int] = (0, 0)
    """Width and height."""
    error: str = ""


def write(file: IO[bytes], header: msgspec.Struct, body: bytes) -> None:
    """Write a header and what follows it."""
    packed = msgspec.msgpack.encode(header)
    file.write(struct.pack(">I", len(packed)) + packed)
    file.write(body)
    file.flush()


def split(data: bytes) -> tuple[bytes, memoryview]:
    """Return the header and what follows it; raises ValueError if they are not whole."""
    if len(data) < 4 or len(data) < 4 + (size := struct.unpack(">I", data[:4])[0]):
        raise ValueError("cut short")
    return data[4 : 4 + size], memoryview(data)[4 + size :]


def confine() -> None:
    """Take from this process what it does not need, where the system can."""
    with contextlib.suppress(ImportError):  # there is no such thing on Windows
        import resource

        most = {
            resource.RLIMIT_AS: MEMORY_BYTES,
            resource.RLIMIT_CPU: CPU_S,
            resource.RLIMIT_FSIZE: 0,
            resource.RLIMIT_CORE: 0,
            resource.RLIMIT_NOFILE: 16,
        }
        for kind, limit in most.items():
            with contextlib.suppress(ValueError, OSError):  # it is lower already
                resource.setrlimit(kind, (limit, limit))


def main() -> None:
    """Answer the one request."""
    Image.init()
    confine()
    data = sys.stdin.buffer.read()
    if not data:
        return  # the parent has ended, or needs no picture
    header, body = split(data)
    request = msgspec.msgpack.decode(header, type=Request)
    try:
        image = decode_picture(io.BytesIO(body), request.name)
        write(sys.stdout.buffer, Reply(image.size), image.tobytes())
    except PortraitError as e:
        write(sys.stdout.buffer, Reply(error=str(e)), b"")
    except MemoryError:
        text = f"{request.name} takes more memory than a picture may; make it smaller."
        write(sys.stdout.buffer, Reply(error=text), b"")


if __name__ == "__main__":
    main()
