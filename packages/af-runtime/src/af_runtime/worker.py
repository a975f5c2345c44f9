"""Hosts one avatar on a thread of its own: jobs go in, answers come out, in order.

Each session has at most one job here at a time, so a queue is fair. A failure is an answer: it ends
the stream it belongs to, and no other.
"""

import queue
import threading
import time
from collections.abc import Callable
from typing import Any

import attrs
import numpy as np
import torch
from af_core.errors import StreamInputError
from af_core.pipeline import Avatar, AvatarState
from numpy.typing import NDArray

from af_runtime.messages.codes import Code
from af_runtime.stage_times import Spans, StageTimes


@attrs.frozen
class Seen:
    """The avatar has seen the portrait of a stream."""

    stream: int


@attrs.frozen(eq=False)
class Drawn:
    """The avatar has drawn what a job completes."""

    stream: int
    pictures: NDArray[np.uint8]
    """Uint8 [m, H, W, 3], m >= 0."""
    seconds: float
    """How long it took."""
    spans: Spans = attrs.field(factory=dict)
    """What each stage did meanwhile."""


@attrs.frozen
class Failed:
    """A job has failed, and its stream is no more."""

    stream: int
    code: Code
    message: str


Answer = Seen | Drawn | Failed


class Worker:
    """Runs the streams of one avatar. ``on_answer`` is called on the worker's thread."""

    def __init__(self, avatar: Avatar, on_answer: Callable[[], None] = lambda: None) -> None:
        self._times, self._on_answer = StageTimes(avatar), on_answer
        self._avatar = self._times.avatar
        self._states: dict[int, AvatarState] = {}
        self._jobs: queue.SimpleQueue[Callable[[], Answer | None] | None] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[Answer] = queue.SimpleQueue()
        self.busy_since_s: float | None = None
        """When the job that runs began, on the monotonic clock: a sign of life, or of its end."""
        self._thread = threading.Thread(target=self._run, name="af-worker", daemon=True)
        self._thread.start()

    def open(self, stream: int, portrait: NDArray[np.uint8], seed: int) -> None:
        """Begin a stream from uint8 [H, W, 3]; `Seen` answers."""
        self._put(stream, lambda: self._open(stream, portrait, seed))

    def draw(self, stream: int, samples: NDArray[np.float32], *, is_last: bool = False) -> None:
        """Let a stream hear float32 [n]; `Drawn` answers. After the last, the stream has ended."""
        self._put(stream, lambda: self._draw(stream, samples, is_last))

    def forget(self, stream: int) -> None:
        """End a stream; nothing answers."""
        self._put(stream, lambda: self._forget(stream))

    def answers(self) -> list[Answer]:
        """Return the answers since the last call."""
        return [self._answers.get() for _ in range(self._answers.qsize())]

    def close(self) -> None:
        """Finish the jobs that were given and end the thread."""
        self._jobs.put(None)
        self._thread.join()

    def _put(self, stream: int, job: Callable[[], Answer | None]) -> None:
        self._jobs.put(lambda: self._guarded(stream, job))

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            self.busy_since_s = time.monotonic()
            answer = job()
            self.busy_since_s = None
            if answer is not None:
                self._answers.put(answer)
                self._on_answer()

    def _guarded(self, stream: int, job: Callable[[], Answer | None]) -> Answer | None:
        """Run a job; whatever goes wrong becomes an answer."""
        try:
            return job()
        except StreamInputError as e:
            failed = Failed(stream, Code.MEDIA_FORMAT, str(e))
        except (torch.OutOfMemoryError, MemoryError) as e:
            failed = Failed(stream, Code.STAGE_OOM, f"There was no memory for this session: {e}")
            torch.cuda.empty_cache()  # does nothing where there is no CUDA
        except Exception as e:
            text = f"The avatar failed: {type(e).__name__}: {e}"
            failed = Failed(stream, Code.STAGE_FAILED, text)
        self._forget(stream)
        return failed

    def _open(self, stream: int, portrait: NDArray[np.uint8], seed: int) -> Answer:
        self._states[stream] = self._avatar.open(torch.tensor(portrait), seed=seed)
        return Seen(stream)

    def _draw(self, stream: int, samples: NDArray[np.float32], is_last: bool) -> Answer | None:
        if stream not in self._states:
            return None
        began = time.perf_counter()
        frames, state = self._avatar.step(self._states[stream], torch.from_numpy(samples))
        if is_last:
            owed, state = self._avatar.flush(state)
            frames = torch.cat([frames, owed], dim=1)
        self._states[stream] = state
        pictures = frames[0].cpu().numpy()
        return Drawn(stream, pictures, time.perf_counter() - began, self._times.taken())

    def _forget(self, stream: int) -> Any:
        self._states.pop(stream, None)
