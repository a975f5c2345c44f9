"""How long each stage of an avatar worked on a block, told by the clock of the host.

Two readings of a clock for each stage and block, so it is always on. Nothing waits for a GPU: where
stages run there, a stage's time is that of its launches, and the last one's that of the wait.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any

import attrs
from af_core.pipeline import Avatar


@attrs.frozen
class Span:
    """One stage at work on one block."""

    began_s: float
    """On the clock `time.perf_counter`."""
    seconds: float
    """How long it worked; less than until its end if it worked in pieces."""


Spans = Mapping[str, Span]
"""Spans by the name of the stage."""


class StageTimes:
    """Times the stages of one avatar. ``avatar`` is the one to run; one thread at a time."""

    def __init__(self, avatar: Avatar, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._spans: dict[str, Span] = {}
        runners: dict[str, Any] = {n: _Timed(r, n, self) for n, r in avatar.runners.items()}
        self.avatar = attrs.evolve(avatar, runners=runners)

    def taken(self) -> Spans:
        """Return what the stages did since the last call, and forget it."""
        spans, self._spans = self._spans, {}
        return spans

    def run(self, name: str, work: Callable[..., Any], *arguments: Any) -> Any:
        """Do some work of a stage, and note how long it takes."""
        began = self._clock()
        done = work(*arguments)
        seconds = self._clock() - began
        before = self._spans.get(name)
        self._spans[name] = (
            Span(began, seconds)
            if before is None
            else Span(before.began_s, before.seconds + seconds)
        )
        return done


@attrs.frozen(slots=False)
class _Timed:
    """A node of the pipeline whose work is timed; all else it can do, it does as before."""

    inner: Any
    name: str
    times: StageTimes

    def open(self, opening: Any) -> Any:
        return self.inner.open(opening)

    def step(self, state: Any, inputs: Any) -> Any:
        return self.times.run(self.name, self.inner.step, state, inputs)

    def flush(self, state: Any) -> Any:
        return self.times.run(self.name, self.inner.flush, state)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)
