"""A stage process lives no longer than its supervisor, and is not hit by signals meant for it."""

import ctypes
import os
import signal
import sys
import threading

PR_SET_PDEATHSIG = 1


def hold(parent: int) -> None:
    """End this process when its parent ends, in whatever way; Ctrl-C and SIGTERM are not for it.

    Standard input is a pipe from the parent: it closes when the parent is gone. On Linux, the
    system ends this process too, even one that is stuck.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)
    threading.Thread(target=_wait_for_end, name="af-lifeline", daemon=True).start()


def _wait_for_end() -> None:
    while os.read(0, 4096):
        pass
    os._exit(1)
