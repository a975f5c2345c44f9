"""Hosts one avatar on a thread of its own: jobs go in, answers come out, in order.

Each session has at most one job here at a time, so a queue is fair. With ``together``, blocks that
wait at the same time are drawn as one. A failure is an answer: it ends the stream it belongs to,
and no other.
"""

import queue
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import attrs
import numpy as np
import torch
from af_core.errors import SnapshotError, StreamInputError
from af_core.geometry import SAMPLES_PER_FRAME
from af_core.pipeline import Avatar, AvatarState, Stepped
from af_core.snapshots.value import Snapshot
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
class Forgotten:
    """The avatar has forgotten what had not come out of a stream."""

    stream: int
    num_owed: int
    """Frames that come out of it all the same: later stages hold them."""


@attrs.frozen(eq=False)
class Kept:
    """What the avatar remembers of a stream, to go on elsewhere."""

    stream: int
    data: bytes | None
    """A snapshot (``af_core.snapshots``); None if there can be none."""
    problem: str = ""
    """Why there can be none."""


@attrs.frozen
class Failed:
    """A job has failed, and its stream is no more."""

    stream: int
    code: Code
    message: str


Answer = Seen | Drawn | Forgotten | Kept | Failed


@attrs.frozen(eq=False)
class _Block:
    """A block of speech to be drawn, float32 [n]."""

    stream: int
    samples: NDArray[np.float32]
    is_last: bool

    @property
    def may_share(self) -> bool:
        return not self.is_last


_Job = Callable[[], Answer | None] | _Block

GATHER_S = 0.002
"""How long a block waits for those of other streams, where blocks are drawn together."""


class Worker:
    """Runs the streams of one avatar. ``on_answer`` is called on the worker's thread."""

    def __init__(
        self,
        avatar: Avatar,
        on_answer: Callable[[], None] = lambda: None,
        *,
        together: bool = False,
    ) -> None:
        self._times, self._on_answer, self._together = StageTimes(avatar), on_answer, together
        self._avatar = self._times.avatar
        self._states: dict[int, AvatarState] = {}
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._next: list[_Job | None] = []
        """Taken from the queue while blocks were gathered; comes before all that is in it."""
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
        self._jobs.put(_Block(stream, samples, is_last))

    def interrupt(self, stream: int) -> None:
        """Let a stream forget speech whose frames have not come out; `Forgotten` answers."""
        self._put(stream, lambda: self._interrupt(stream))

    def keep(self, stream: int) -> None:
        """Put all that the avatar remembers of a stream into bytes; `Kept` answers."""
        self._put(stream, lambda: self._keep(stream))

    def restore(self, stream: int, data: bytes) -> None:
        """Go on with a stream from such bytes; `Seen` answers."""
        self._put(stream, lambda: self._restore(stream, data))

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
        while (job := self._take()) is not None:
            self.busy_since_s = time.monotonic()
            answers = self._draw(self._gathered(job)) if isinstance(job, _Block) else [job()]
            self.busy_since_s = None
            for answer in answers:
                if answer is not None:
                    self._answers.put(answer)
                    self._on_answer()

    def _take(self) -> _Job | None:
        return self._next.pop() if self._next else self._jobs.get()

    def _gathered(self, block: _Block) -> list[_Block]:
        """Return a block and those that wait behind it, up to the first job of another kind."""
        blocks, until = [block], time.monotonic() + GATHER_S
        while self._together and len(blocks) < len(self._states) and blocks[-1].may_share:
            try:
                job = self._jobs.get(timeout=max(0.0, until - time.monotonic()))
            except queue.Empty:
                break
            names = [one.stream for one in blocks]
            if not isinstance(job, _Block) or not job.may_share or job.stream in names:
                self._next.append(job)
                break
            blocks.append(job)
        return blocks

    def _guarded(self, stream: int, job: Callable[[], Answer | None]) -> Answer | None:
        """Run a job; whatever goes wrong becomes an answer."""
        try:
            return job()
        except Exception as e:
            return self._failed(stream, e)

    def _failed(self, stream: int, error: Exception) -> Failed:
        """End a stream that an error has hit."""
        self._forget(stream)
        match error:
            case StreamInputError():
                return Failed(stream, Code.MEDIA_FORMAT, str(error))
            case SnapshotError():
                return Failed(stream, Code.RESTORE_DENIED, str(error))
            case torch.OutOfMemoryError() | MemoryError():
                torch.cuda.empty_cache()  # does nothing where there is no CUDA
                text = f"There was no memory for this session: {error}"
                return Failed(stream, Code.STAGE_OOM, text)
        text = f"The avatar failed: {type(error).__name__}: {error}"
        return Failed(stream, Code.STAGE_FAILED, text)

    def _open(self, stream: int, portrait: NDArray[np.uint8], seed: int) -> Answer:
        self._states[stream] = self._avatar.open(torch.tensor(portrait), seed=seed)
        return Seen(stream)

    def _draw(self, blocks: list[_Block]) -> list[Answer | None]:
        """Draw blocks of different streams; each is answered for itself."""
        known = [one for one in blocks if one.stream in self._states]
        began = time.perf_counter()
        if len(known) < 2:
            return [self._guarded(one.stream, partial(self._draw_alone, one)) for one in known]
        states = [self._states[one.stream] for one in known]
        samples = [torch.from_numpy(one.samples) for one in known]
        outcomes = self._avatar.step_together(states, samples)
        spans = self._times.taken()
        return [
            self._guarded(one.stream, partial(self._shown, one, outcome, began, spans))
            for one, outcome in zip(known, outcomes, strict=True)
        ]

    def _draw_alone(self, block: _Block) -> Answer:
        began = time.perf_counter()
        samples = torch.from_numpy(block.samples)
        frames, state = self._avatar.step(self._states[block.stream], samples)
        if block.is_last:
            owed, state = self._avatar.flush(state)
            frames = torch.cat([frames, owed], dim=1)
        return self._shown(block, (frames, state), began, self._times.taken())

    def _shown(
        self, block: _Block, outcome: Stepped | Exception, began: float, spans: Spans
    ) -> Answer:
        if isinstance(outcome, Exception):
            raise outcome
        frames, self._states[block.stream] = outcome
        pictures = frames[0].cpu().numpy()
        return Drawn(block.stream, pictures, time.perf_counter() - began, spans)

    def _interrupt(self, stream: int) -> Answer | None:
        if stream not in self._states:
            return None
        state = self._states[stream] = self._avatar.interrupt(self._states[stream])
        return Forgotten(stream, state.num_samples // SAMPLES_PER_FRAME - state.num_frames)

    def _keep(self, stream: int) -> Answer | None:
        if stream not in self._states:
            return None
        try:
            return Kept(stream, self._avatar.snapshot(self._states[stream]).to_bytes())
        except SnapshotError as e:
            return Kept(stream, None, str(e))

    def _restore(self, stream: int, data: bytes) -> Answer:
        self._states[stream] = self._avatar.restore(Snapshot.from_bytes(data))
        return Seen(stream)

    def _forget(self, stream: int) -> Any:
        self._states.pop(stream, None)
