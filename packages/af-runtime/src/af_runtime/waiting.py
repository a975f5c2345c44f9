"""The line before the places of a worker: first come, first seated, and told where they stand."""

from collections import OrderedDict
from typing import Any

import attrs
from numpy.typing import NDArray

from af_runtime.hosting import Hosted

SHORTEST_MS, LONGEST_MS = 1_000, 60_000
"""Bounds of the advice when to ask again."""

WEIGHT = 0.2
"""Of the newest session in the mean length of sessions."""


@attrs.frozen(eq=False)
class Waiting:
    """A session that waits for a place, and what its stream will begin with."""

    hosted: Hosted
    portrait: NDArray[Any]
    seed: int


class Line:
    """Sessions that wait, in the order in which they came."""

    def __init__(self, places: int, length: int) -> None:
        self.places, self.length = places, length
        self._waiting: OrderedDict[int, Waiting] = OrderedDict()
        self._told: dict[int, int] = {}
        self._mean_s: float | None = None

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def is_full(self) -> bool:
        """Whether nobody else may wait."""
        return len(self._waiting) >= self.length

    def join(self, waiting: Waiting) -> None:
        """Stand at the end."""
        self._waiting[waiting.hosted.stream] = waiting

    def leave(self, stream: int) -> bool:
        """Wait no more; return whether it did."""
        self._told.pop(stream, None)
        return self._waiting.pop(stream, None) is not None

    def next(self) -> Waiting | None:
        """Take the first out of the line; None if nobody waits."""
        if not self._waiting:
            return None
        stream, first = next(iter(self._waiting.items()))
        self.leave(stream)
        return first

    def members(self) -> list[Hosted]:
        """Return those who wait."""
        return [one.hosted for one in self._waiting.values()]

    def tell(self) -> None:
        """Tell those whose position has changed."""
        for position, (stream, one) in enumerate(self._waiting.items(), 1):
            if self._told.get(stream) != position:
                self._told[stream] = position
                one.hosted.stand_in_line(position, self.retry_after_ms(position))

    def note_length(self, seconds: float) -> None:
        """Learn how long a session has lasted."""
        before = seconds if self._mean_s is None else self._mean_s
        self._mean_s = before + WEIGHT * (seconds - before)

    def retry_after_ms(self, position: int) -> int:
        """Return when a place is expected for who is number ``position`` in line.

        Sessions are taken to last as long as those before; of none, the shortest time is given.
        """
        if self._mean_s is None:
            return SHORTEST_MS
        expected_ms = 1e3 * self._mean_s * position / max(1, self.places)
        return round(min(max(expected_ms, SHORTEST_MS), LONGEST_MS))
