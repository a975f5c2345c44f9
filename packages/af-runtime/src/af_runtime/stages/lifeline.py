"""A stage process lives no longer than its supervisor, and is not hit by signals meant for it."""

import ctypes
import os
import signal
import sys
import threading

PR_SET_PDEATHSIG = 1


def end_with(parent: int) -> None:
    """End this process when its parent ends, in whatever way; Ctrl-C and SIGTERM are not for it.

    The system does it (on Linux), so that it holds for a process that is stuck.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)  # it ended before it could be tied to


def hold(parent: int, line: int) -> None:
    """Do so, and end too when the far end of ``line``, a pipe, is closed."""
    end_with(parent)
    threading.Thread(target=_wait_for_end, args=[line], name="af-lifeline", daemon=True).start()


def _wait_for_end(line: int) -> None:
    while os.read(line, 4096):
        pass
    os._exit(1)
