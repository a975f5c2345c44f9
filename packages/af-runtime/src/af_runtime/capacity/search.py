"""Finds how many sessions a machine holds: rounds of one block for each, timed at full load.

A session in real time needs a block in every ``block_ms``. So n sessions are held if drawing a
block for each of n streams takes no longer than that, but for one round in a hundred. The streams
run on the worker of `serve`, one after another and as one batch, and what is faster is kept.
"""

import threading
import time
from collections.abc import Callable, Iterator
from itertools import cycle, islice

import numpy as np
from af_core.pipeline import Avatar
from numpy.typing import NDArray

from af_runtime.benchmark import bench_portrait, speech_like
from af_runtime.capacity.record import Capacity, Key, Trial
from af_runtime.errors import UnavailableError
from af_runtime.worker import Failed, Worker

SHARE = 0.9
"""Of the time of a block that drawing may take; the rest is for messages and frames."""

ROUNDS = 100
SETTLING = 16
"""Blocks before a stream is measured: window and anchors have filled, kernels have been chosen."""

GAIN = 0.95
"""Drawing as one is chosen for as many sessions only if it takes no more than this share."""

MOST = 256
PATIENCE_S = 120.0

OnTrial = Callable[[Trial], None]


def find_capacity(
    avatar: Avatar,
    key: Key,
    *,
    rounds: int = ROUNDS,
    most: int = MOST,
    on_trial: OnTrial = lambda trial: None,
) -> Capacity:
    """Measure how many sessions are held, ``most`` at most, both ways of drawing them."""
    budget_ms = SHARE * avatar.info.block_ms
    found: dict[bool, dict[int, Trial]] = {}
    for together in (False, True):
        streams = _Streams(avatar, together, budget_ms, rounds, on_trial)
        try:
            found[together] = streams.search(most)
        finally:
            streams.close()
    alone, shared = found[False], found[True]
    sessions = {way: _held(trials) for way, trials in found.items()}
    together = sessions[True] > sessions[False] or _gains(alone, shared, sessions[False])
    trials = (*sorted_trials(alone), *sorted_trials(shared))
    return Capacity(key, sessions[together], together, round(budget_ms, 3), trials)


def measure(avatar: Avatar, sessions: int, *, together: bool, rounds: int = ROUNDS) -> Trial:
    """Return what one number of sessions takes."""
    budget_ms = SHARE * avatar.info.block_ms
    streams = _Streams(avatar, together, budget_ms, rounds, lambda trial: None)
    try:
        return streams.trial(sessions)
    finally:
        streams.close()


def sorted_trials(trials: dict[int, Trial]) -> list[Trial]:
    """Return trials by the number of sessions."""
    return [trials[n] for n in sorted(trials)]


def _held(trials: dict[int, Trial]) -> int:
    return max((n for n, trial in trials.items() if trial.holds), default=0)


def _gains(alone: dict[int, Trial], shared: dict[int, Trial], sessions: int) -> bool:
    """Whether drawing as one holds as many sessions, and is faster."""
    if sessions < 2 or sessions not in shared or not shared[sessions].holds:
        return False
    return shared[sessions].p50_ms <= GAIN * alone[sessions].p50_ms


class _Streams:
    """Streams of one worker, as many as were needed so far."""

    def __init__(
        self, avatar: Avatar, together: bool, budget_ms: float, rounds: int, on_trial: OnTrial
    ) -> None:
        self._together, self._budget_ms, self._rounds = together, budget_ms, rounds
        self._on_trial = on_trial
        self._portrait = bench_portrait(avatar).numpy()
        samples = avatar.info.frames_per_block * avatar.info.samples_per_frame
        self._speech: Iterator[NDArray[np.float32]] = cycle(islice(speech_like(samples, 0), 64))
        self._answered = threading.Event()
        self._worker = Worker(avatar, self._answered.set, together=together)
        self._count = 0

    def search(self, most: int) -> dict[int, Trial]:
        """Return trials that bound the largest number that holds: by doubling, then by halves."""
        trials: dict[int, Trial] = {}
        low, high = 0, 1
        while high <= most and self._tried(trials, high):
            low, high = high, 2 * high
        high = min(high, most + 1)
        while high - low > 1:
            middle = (low + high) // 2
            if self._tried(trials, middle):
                low = middle
            else:
                high = middle
        return trials

    def trial(self, sessions: int) -> Trial:
        """Time rounds of one block for each of so many sessions."""
        while self._count < sessions:
            self._open()
        took_ms = [1e3 * self._round(range(sessions)) for _ in range(self._rounds)]
        p50, p99 = (round(float(np.percentile(took_ms, q)), 3) for q in (50, 99))
        return Trial(sessions, self._together, self._rounds, p50, p99, p99 <= self._budget_ms)

    def close(self) -> None:
        self._worker.close()

    def _tried(self, trials: dict[int, Trial], sessions: int) -> bool:
        trials[sessions] = self.trial(sessions)
        self._on_trial(trials[sessions])
        return trials[sessions].holds

    def _open(self) -> None:
        """Begin a stream; each is of another age, as those of clients are."""
        stream, self._count = self._count, self._count + 1
        self._worker.open(stream, self._portrait, stream)
        self._await(1)
        for _ in range(SETTLING + stream % 3):
            self._round([stream])

    def _round(self, streams: range | list[int]) -> float:
        began = time.perf_counter()
        for stream in streams:
            self._worker.draw(stream, next(self._speech))
        self._await(len(streams))
        return time.perf_counter() - began

    def _await(self, count: int) -> None:
        until = time.monotonic() + PATIENCE_S
        while count > 0:
            if not self._answered.wait(max(0.0, until - time.monotonic())):
                raise UnavailableError(f"A block was not drawn within {PATIENCE_S:g} s.")
            self._answered.clear()
            for answer in self._worker.answers():
                if isinstance(answer, Failed):
                    raise UnavailableError(f"A stream failed: {answer.message}")
                count -= 1
