"""Where stage processes come from: a process that has imported what they need, and done nothing.

Importing torch takes seconds, and a stage that was killed is missed at once. So the supervisor
begins one process that imports it and waits; every stage is a copy of that one (a fork), made in
milliseconds. It has no thread, no ZeroMQ context and no CUDA, which a copy would break. When it
ends, the stages go on, and its heir, a copy that waits as it does, takes its place.
"""

import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress

import attrs
import msgspec

from af_runtime.stages import lifeline
from af_runtime.stages.birth import Birth

MAX_BYTES = 65_536

HEIR = 0
"""The number of a copy that is no process of the pipeline, but a nursery."""


@attrs.frozen
class Born:
    """A process that was asked for is there."""

    number: int
    pid: int
    handle: int
    """Open file that stands for the process (pidfd): readable when it has ended."""

    def kill(self) -> None:
        """End it."""
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.handle, signal.SIGKILL)


class _Told(msgspec.Struct, array_like=True):
    number: int
    pid: int


class Nursery:
    """The supervisor's end. One thread owns it."""

    def __init__(self, here: socket.socket) -> None:
        """It speaks over ``here``; made by `begun` and `heir`."""
        self._here = here
        self._here.setblocking(False)
        self._system: subprocess.Popen[bytes] | None = None
        self._lifeline = -1
        self._born: Born | None = None

    @classmethod
    def begun(cls) -> "Nursery":
        """Begin one as a program: it imports first, which takes seconds."""
        here, there = _pair()
        nursery = cls(here)
        with there:
            nursery._system = subprocess.Popen(
                [sys.executable, "-P", "-m", "af_runtime.stages", str(there.fileno())],
                stdin=subprocess.DEVNULL,
                pass_fds=[there.fileno()],
                process_group=0,
                env={"OMP_WAIT_POLICY": "PASSIVE", **os.environ},
            )
        return nursery

    def heir(self) -> "Nursery":
        """Ask for a copy of it, there as soon as it is; shares its memory until one is changed.

        Raises ``OSError`` if the nursery has gone.
        """
        here, there = _pair()
        nursery = Nursery(here)
        try:
            with there:
                nursery._lifeline = self._tell(HEIR, None, there.fileno())
        except OSError:
            here.close()
            raise
        return nursery

    def is_born(self, born: Born) -> None:
        """It is there: an heir that was asked for."""
        self._born = born

    @property
    def pid(self) -> int | None:
        """Return its number in the system, once it has one."""
        if self._system is not None:
            return self._system.pid
        return None if self._born is None else self._born.pid

    def fileno(self) -> int:
        """Return what becomes readable when there is something to tell."""
        return self._here.fileno()

    def ask(self, birth: Birth, number: int) -> int:
        """Ask for a process; `born` tells when it is there.

        Returns its lifeline, an open file: the process ends when it is closed. Raises ``OSError``
        if the nursery has gone.
        """
        return self._tell(number, birth, birth.ring_handle)

    def _tell(self, number: int, birth: Birth | None, handle: int) -> int:
        hold, held = os.pipe()
        try:
            said = msgspec.json.encode((number, birth))
            handles = [hold, handle] if handle >= 0 else [hold]
            socket.send_fds(self._here, [said], handles)
        except OSError:
            os.close(held)
            raise
        finally:
            os.close(hold)
        return held

    def born(self) -> Iterator[Born | None]:
        """Yield the processes that have come since; None if the nursery has gone."""
        with suppress(BlockingIOError):
            while True:
                try:
                    said, handles, _, _ = socket.recv_fds(self._here, MAX_BYTES, 1)
                except ConnectionResetError:
                    said, handles = b"", []
                if not said:
                    yield None
                    return
                told = msgspec.json.decode(said, type=_Told)
                yield Born(told.number, told.pid, handles[0])

    def close(self) -> None:
        """End it; what came from it goes on."""
        self._here.close()
        if self._system is not None:
            self._system.kill()
            self._system.wait()
        if self._lifeline >= 0:
            os.close(self._lifeline)
        if self._born is not None:
            self._born.kill()
            select.select([self._born.handle], [], [])
            os.close(self._born.handle)


def _pair() -> tuple[socket.socket, socket.socket]:
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def keep(line: socket.socket) -> tuple[Birth, int]:
    """Be the nursery; returns only in a new stage: what it shall be, and its shared memory."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody here waits for those that have ended
    own: int | None = None  # the lifeline of an heir
    while True:
        said, handles, _, _ = socket.recv_fds(line, MAX_BYTES, 2)
        if not said:
            os._exit(0)  # the supervisor has gone
        number, birth = msgspec.json.decode(said, type=tuple[int, Birth | None])
        pid = os.fork()
        if pid == 0:
            line.close()
            os.setpgid(0, 0)
            if own is not None:
                os.close(own)
            if birth is not None:
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                lifeline.hold(handles[0])
                return birth, handles[1] if len(handles) > 1 else -1
            own = handles[0]
            lifeline.tie(own)
            line = socket.socket(fileno=handles[1])
            continue
        with suppress(ProcessLookupError):
            handle = os.pidfd_open(pid)
            socket.send_fds(line, [msgspec.json.encode(_Told(number, pid))], [handle])
            os.close(handle)
        for one in handles:
            os.close(one)
