"""Several workers as one: streams side by side, for an avatar whose stages can work at once."""

from collections.abc import Callable

import numpy as np
from af_core.pipeline import Avatar
from numpy.typing import NDArray

from af_runtime.worker import Answer, Worker


class Lanes:
    """Shares the streams of an avatar among threads; each stream keeps to one, and so its order.

    It is used like a `Worker`. While a stage in another process decodes a block of one
    stream, another stage may denoise a block of another.
    """

    def __init__(
        self, avatar: Avatar, on_answer: Callable[[], None] = lambda: None, *, count: int
    ) -> None:
        self._workers = [Worker(avatar, on_answer) for _ in range(count)]

    @property
    def busy_since_s(self) -> float | None:
        """When the longest of the jobs that run began; see `Worker`."""
        since = [one.busy_since_s for one in self._workers]
        return min((s for s in since if s is not None), default=None)

    def open(self, stream: int, portrait: NDArray[np.uint8], seed: int) -> None:
        """See `Worker.open`."""
        self._of(stream).open(stream, portrait, seed)

    def draw(self, stream: int, samples: NDArray[np.float32], *, is_last: bool = False) -> None:
        """See `Worker.draw`."""
        self._of(stream).draw(stream, samples, is_last=is_last)

    def interrupt(self, stream: int) -> None:
        """See `Worker.interrupt`."""
        self._of(stream).interrupt(stream)

    def keep(self, stream: int) -> None:
        """See `Worker.keep`."""
        self._of(stream).keep(stream)

    def restore(self, stream: int, data: bytes) -> None:
        """See `Worker.restore`."""
        self._of(stream).restore(stream, data)

    def forget(self, stream: int) -> None:
        """See `Worker.forget`."""
        self._of(stream).forget(stream)

    def answers(self) -> list[Answer]:
        """Return the answers since the last call."""
        return [answer for one in self._workers for answer in one.answers()]

    def close(self) -> None:
        """Finish the jobs that were given and end the threads."""
        for one in self._workers:
            one.close()

    def _of(self, stream: int) -> Worker:
        return self._workers[stream % len(self._workers)]


def workers(
    avatar: Avatar, on_answer: Callable[[], None], *, together: bool, count: int
) -> Worker | Lanes:
    """Return one worker, or several that are used like one."""
    if count == 1:
        return Worker(avatar, on_answer, together=together)
    return Lanes(avatar, on_answer, count=count)
