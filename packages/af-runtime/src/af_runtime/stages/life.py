"""One process of the system that is, or may become, a part of the pipeline: a life of a stage."""

import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import attrs
import msgspec

from af_runtime.stages.source import PipelineSource


class Birth(msgspec.Struct, frozen=True, kw_only=True):
    """What a process is told when it begins, as one line of JSON on its standard input."""

    endpoint: str
    """Where its supervisor listens."""
    name: str
    """How it calls itself on the line."""
    parent: int
    """Process of its supervisor."""
    source: PipelineSource
    process: str = ""
    """Which part of the placement it is; empty for a spare, which is told later."""
    ring_handle: int = -1
    """Open file of the shared memory, inherited."""
    ring_bytes: int = 0
    threads: int = 1
    """Threads of torch."""
    beat_s: float = 0.5
    """Seconds between signs of life."""


@attrs.define(eq=False)
class Life:
    """A process that was begun, and what is known of it."""

    number: int
    system: "subprocess.Popen[bytes]"
    begun_s: float
    heard_s: float
    """When it last gave a sign of life."""
    progress_s: float
    """When it last finished something, or was given work while it had none."""
    role: str = ""
    """The part of the placement it is; empty for a spare."""
    is_spare: bool = False
    """Whether it was begun without a role."""
    has_started: bool = False
    is_ready: bool = False
    """Whether it has built its part; for a spare, all parts it may build beforehand."""
    is_built: bool = False
    """Whether a spare without a role has built everything."""
    num_parameters: int = 0
    num_answers: int = 0
    done: int = 0
    """Pieces of work done, by its own account."""
    busy_s: float = 0.0
    """For how long it has been at its present piece, by its own account."""
    reason: str = ""
    """Why it was ended, if it was."""
    complaint: str = ""
    """What it said before it gave up."""
    calls: "dict[int, Future[Any]]" = attrs.field(factory=dict)
    """Requests that it has not answered."""

    @property
    def name(self) -> bytes:
        """Return how it calls itself on the line."""
        return b"life-%d" % self.number

    @property
    def pid(self) -> int:
        """Return its number in the system."""
        return self.system.pid

    def fail(self, error: Callable[[], Exception]) -> None:
        """Let all that wait for it know."""
        calls, self.calls = self.calls, {}
        for future in calls.values():
            future.set_exception(error())


def begin(birth: Birth) -> "subprocess.Popen[bytes]":
    """Begin a process; it ends when this one does.

    It gets a process group of its own, so that Ctrl-C in a terminal is for its supervisor alone.
    """
    system = subprocess.Popen(
        [sys.executable, "-P", "-m", "af_runtime.stages"],
        stdin=subprocess.PIPE,
        pass_fds=[birth.ring_handle] if birth.ring_handle >= 0 else [],
        process_group=0,
        env={"OMP_WAIT_POLICY": "PASSIVE", **os.environ},
    )
    assert system.stdin is not None
    system.stdin.write(msgspec.json.encode(birth) + b"\n")
    system.stdin.flush()
    return system


def number_of(peer: bytes) -> int | None:
    """Return the number of the life that a message comes from."""
    digits = peer.removeprefix(b"life-").removesuffix(b".pulse")
    return int(digits) if digits.isdigit() else None


def folder_of(endpoint: str) -> Path:
    """Return the folder of an endpoint ``ipc://FOLDER/hub``."""
    return Path(endpoint.removeprefix("ipc://")).parent
