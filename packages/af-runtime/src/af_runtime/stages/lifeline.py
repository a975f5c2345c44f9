"""A stage process lives no longer than its supervisor, and is not hit by signals meant for it."""

import ctypes
import fcntl
import os
import signal
import sys
import threading

PR_SET_PDEATHSIG = 1


def hold(line: int) -> None:
    """End this process when the far end of ``line``, a pipe, is closed.

    On Linux the system does it, so that it holds for a process that is stuck too; elsewhere a
    thread does.
    """
    tie(line)
    threading.Thread(target=_wait_for_end, args=[line], name="af-lifeline", daemon=True).start()


def tie(line: int) -> None:
    """The same without a thread, for a process that must have none (on Linux)."""
    _ignore_signals()
    if sys.platform == "linux":
        fcntl.fcntl(line, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(line, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(line, fcntl.F_SETFL, fcntl.fcntl(line, fcntl.F_GETFL) | os.O_ASYNC)


def end_with(parent: int) -> None:
    """End this process when its parent ends, in whatever way (on Linux)."""
    _ignore_signals()
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)  # it ended before it could be tied to


def _ignore_signals() -> None:
    """Ctrl-C, and the SIGTERM of a service manager to all processes, are for the supervisor."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def _wait_for_end(line: int) -> None:
    while os.read(line, 4096):
        pass
    os._exit(1)
