"""One process that is, or may become, a part of the pipeline: a life of a stage."""

import os
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import attrs

from af_runtime.stages.nursery import Born


@attrs.define(eq=False)
class Life:
    """A process that was asked for, and what is known of it. Times are of the monotonic clock."""

    number: int
    lifeline: int
    """Open file; the process ends when it is closed."""
    begun_s: float
    heard_s: float
    """When it last gave a sign of life."""
    progress_s: float
    """When it last finished something, or was given work while it had none."""
    role: str = ""
    """The part of the placement it is; empty for a spare."""
    is_spare: bool = False
    """Whether it was begun without a role."""
    born: Born | None = None
    has_started: bool = False
    """Whether it has connected."""
    is_ready: bool = False
    """Whether it has built its part."""
    is_built: bool = False
    """Whether it is a spare that has built all it can."""
    num_parameters: int = 0
    num_answers: int = 0
    done: int = 0
    """Pieces of work done, by its own account."""
    busy_s: float = 0.0
    """For how long it has been at its present piece, by its own account."""
    reason: str = ""
    """Why it was ended, if it was."""
    complaint: str = ""
    """What it said before it gave up, or why it was ended, in words."""
    calls: "dict[int, Future[Any]]" = attrs.field(factory=dict)
    """Requests that it has not answered."""

    @property
    def name(self) -> bytes:
        """Return how it calls itself on the line."""
        return b"life-%d" % self.number

    @property
    def pid(self) -> int | None:
        """Return its number in the system, once it has one."""
        return None if self.born is None else self.born.pid

    def kill(self) -> None:
        """End it; one that is not there yet ends when it comes."""
        if self.born is not None:
            self.born.kill()
        self.cut()

    def cut(self) -> None:
        """Close its lifeline."""
        if self.lifeline >= 0:
            os.close(self.lifeline)
        self.lifeline = -1

    def fail(self, error: Callable[[], Exception]) -> None:
        """Let all that wait for it know."""
        calls, self.calls = self.calls, {}
        for future in calls.values():
            future.set_exception(error())


def number_of(peer: bytes) -> int | None:
    """Return the number of the life that a message comes from."""
    digits = peer.removeprefix(b"life-").removesuffix(b".pulse")
    return int(digits) if digits.isdigit() else None
