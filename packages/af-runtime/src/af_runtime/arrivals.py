"""When speech arrived, so that a frame can tell how old its sound is."""

from collections import deque

Place = tuple[int, float]
"""An utterance, and seconds from its beginning."""

TOLERANCE_S = 1e-3
"""Resampling moves the end of a piece by less than this."""


class Arrivals:
    """Remembers when each piece of speech came until its frames have been shown."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[Place, float]] = deque()
        self._heard: Place = (-1, 0.0)
        self._shown: Place = (-1, 0.0)

    def heard(self, segment: int, seconds: float, now_s: float) -> None:
        """Note that so much more of an utterance came."""
        self._heard = _after(self._heard, segment, seconds)
        self._waiting.append((self._heard, now_s))

    def shown(self, segment: int, seconds: float, now_s: float) -> float | None:
        """Return how long ago the next ``seconds`` of an utterance came, if that is known."""
        self._shown = _after(self._shown, segment, seconds)
        while self._waiting and self._waiting[0][0] < (segment, self._shown[1] - TOLERANCE_S):
            self._waiting.popleft()
        if not self._waiting or self._waiting[0][0][0] != segment:
            return None
        return now_s - self._waiting[0][1]


def _after(place: Place, segment: int, seconds: float) -> Place:
    return segment, seconds + (place[1] if place[0] == segment else 0.0)
