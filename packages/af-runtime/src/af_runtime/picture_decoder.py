"""Decodes pictures that strangers send, each in a child process that lives for that one picture.

The next child is started while nothing is asked, so that a picture waits for its decoding alone.
"""

import contextlib
import os
import subprocess
import sys
import threading
import weakref

import msgspec
from PIL import Image

from af_runtime.errors import PortraitError
from af_runtime.picture_child import Reply, Request, split, write
from af_runtime.pictures import MAX_PIXELS

TIMEOUT_S = 15.0
MOST_BYTES = 3 * MAX_PIXELS + 4096
KEPT_VARIABLES = ("PYTHONPATH", "SYSTEMROOT", "LANG", "LC_ALL")
"""Of the environment; a child is told no tokens."""


class PictureDecoder:
    """Gives pictures for the bytes of files. Any number of threads may use one."""

    def __init__(self, command: tuple[str, ...] = (), timeout_s: float = TIMEOUT_S) -> None:
        """Start the first child. ``command`` is another program to run, for tests."""
        self._command = command or (sys.executable, "-P", "-m", "af_runtime.picture_child")
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._spares = [self._start()]
        weakref.finalize(self, _end_all, self._spares)

    def decode(self, data: bytes, name: str = "This file") -> Image.Image:
        """Return a picture as an upright sRGB image; raises `PortraitError` for what is none.

        A child that takes too long, or is killed, is such an error too.
        """
        if not data:
            raise PortraitError(f"{name} is empty (0 bytes).")
        with self._lock:
            child = self._spares.pop() if self._spares else self._start()
        try:
            return self._asked(child, data, name)
        finally:
            with self._lock:
                if not self._spares:
                    self._spares.append(self._start())

    def _asked(self, child: "subprocess.Popen[bytes]", data: bytes, name: str) -> Image.Image:
        timer = threading.Timer(self._timeout_s, child.kill)
        feeder = threading.Thread(target=_feed, args=(child, Request(name), data), daemon=True)
        timer.start()
        feeder.start()
        assert child.stdout is not None
        with child.stdout:
            answer = child.stdout.read(MOST_BYTES + 1)
        is_too_late = not timer.is_alive()
        timer.cancel()
        child.kill()
        feeder.join()
        status = child.wait()
        if is_too_late:
            raise PortraitError(f"{name} was not decoded within {self._timeout_s:g} s.")
        return _picture(answer, name, status)

    def close(self) -> None:
        """End the child that waits."""
        _end_all(self._spares)

    def _start(self) -> "subprocess.Popen[bytes]":
        kept = {name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ}
        return subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**kept, "OPENBLAS_NUM_THREADS": "1"},
        )


def _feed(child: "subprocess.Popen[bytes]", request: Request, data: bytes) -> None:
    assert child.stdin is not None
    with contextlib.suppress(OSError), child.stdin:  # it has ended before it had read all
        write(child.stdin, request, data)


def _picture(answer: bytes, name: str, status: int) -> Image.Image:
    try:
        header, pixels = split(answer)
        reply = msgspec.msgpack.decode(header, type=Reply)
        if reply.error:
            raise PortraitError(reply.error)
        return Image.frombytes("RGB", reply.size, bytes(pixels))
    except (ValueError, msgspec.MsgspecError) as e:
        text = f"{name} broke the process that decoded it (status {status}); it is not used."
        raise PortraitError(text) from e


def _end_all(children: "list[subprocess.Popen[bytes]]") -> None:
    while children:
        child = children.pop()
        child.kill()
        for pipe in (child.stdin, child.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        child.wait()
