"""What a process holds: objects of ours, memory, descriptors, threads, shared memory."""

import gc
import os
import threading
import time
import tracemalloc
from collections import Counter
from pathlib import Path

from af_core.pipeline import AvatarState
from af_runtime.client.stream import StreamCore
from af_runtime.hosting import Hosted
from af_runtime.observing import Observer
from af_runtime.recording.recorder import Tape
from af_runtime.session.state import Session

OF_SESSIONS = (AvatarState, Hosted, Observer, Session, StreamCore, Tape)
"""Classes of which nothing is left when no session is."""


def objects():
    """Living objects of a session, by class."""
    gc.collect()
    return Counter(type(one).__name__ for one in gc.get_objects() if type(one) in OF_SESSIONS)


def descriptors():
    """What the open descriptors of this process lead to; the one that looks is not counted."""
    found = []
    for number in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink(f"/proc/self/fd/{number}").split(":")[0])
        except OSError:
            continue
    return Counter("pipe or socket" if one in ("pipe", "socket") else one for one in found)


def shared_memory():
    """Names of the segments of this process, which carry its number."""
    folder = Path("/dev/shm")
    names = {one.name for one in folder.iterdir()} if folder.is_dir() else set()
    return {name for name in names if str(os.getpid()) in name}


def traced_bytes():
    """Bytes that Python code has allocated, since `tracemalloc.start`."""
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


def holdings():
    return {
        "objects": dict(objects()),
        "descriptors": dict(descriptors()),
        "threads": sorted(one.name for one in threading.enumerate()),
        "shared_memory": sorted(shared_memory()),
    }


def steady(patience_s=60.0):
    """Return what is held once half a second has not changed it: earlier tests may still close."""
    until, held, since = time.monotonic() + patience_s, holdings(), time.monotonic()
    while time.monotonic() - since < 0.5 and time.monotonic() < until:
        time.sleep(0.02)
        if (now := holdings()) != held:
            held, since = now, time.monotonic()
    return held


def once(is_clear, patience_s=60.0):
    """Return the first holdings that are clear, or the last: threads and systems close in time."""
    until = time.monotonic() + patience_s
    while not is_clear(held := holdings()) and time.monotonic() < until:
        time.sleep(0.02)
    return held
