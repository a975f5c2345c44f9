"""What is told of one session while it lives: to metrics, to its recording, to traces, to STATS.

A session does not know of it, and nothing here decides anything.
"""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import attrs
import msgspec
import numpy as np
from af_core.geometry import AUDIO_HZ, VIDEO_FPS
from numpy.typing import NDArray

from af_runtime.arrivals import Arrivals
from af_runtime.messages import from_client as client
from af_runtime.messages import from_server as server
from af_runtime.messages.fields import Message
from af_runtime.metrics import Metrics
from af_runtime.recording.recorder import Recorder, Tape
from af_runtime.recording.records import Drawn, End, Fed, Forgot, Heard, Sent
from af_runtime.session.state import Feed
from af_runtime.stage_times import Spans

NO_SOUND = np.zeros(0, np.float32)


@attrs.frozen
class DrawnBlock:
    """How the drawing of one block went."""

    num_frames: int
    seconds: float
    """How long the avatar worked on it."""
    wait_s: float
    """How long it waited for the avatar, and its answer for the session."""
    spans: Spans


def stats(session: str, block: DrawnBlock) -> server.Stats:
    """Return what the client of a session is told of a block."""
    return server.Stats(
        session=session,
        frames=block.num_frames,
        draw_us=_us(block.seconds),
        wait_us=_us(block.wait_s),
        stages_us={name[:64]: _us(span.seconds) for name, span in block.spans.items()},
    )


class BlockTrace(Protocol):
    """Takes the blocks of one session as they are drawn."""

    def block(self, drawn: DrawnBlock) -> None:
        """Note a block that was drawn just now."""
        ...


@attrs.frozen
class Watching:
    """What a worker keeps of its sessions besides metrics: nothing, unless it was asked to."""

    recorder: Recorder | None = None
    traces: Callable[[str], BlockTrace] | None = None
    """Returns the trace of a session from its client's ``traceparent``."""

    def observer(
        self,
        opening: client.Open,
        portrait: NDArray[np.uint8],
        metrics: Metrics,
        clock: Callable[[], float],
    ) -> "Observer":
        """Return the observer of a session that begins."""
        tape = None if self.recorder is None else self.recorder.begin(opening, portrait)
        trace = None if self.traces is None else self.traces(opening.traceparent)
        return Observer(metrics, clock, tape=tape, trace=trace)


class Observer:
    """Watches one session."""

    def __init__(
        self,
        metrics: Metrics,
        clock: Callable[[], float],
        *,
        tape: Tape | None = None,
        trace: BlockTrace | None = None,
    ) -> None:
        self._metrics, self._clock = metrics, clock
        self._tape, self._trace = tape, trace
        self._opened_s = self._fed_s = clock()
        self._arrivals = Arrivals()
        self._shown_pts = 0

    def received(self, message: client.InSession, pcm: NDArray[np.float32] | None) -> None:
        """The session has taken a message."""
        sound = NO_SOUND if pcm is None else pcm
        match message:
            case client.Audio():
                self._arrivals.heard(message.segment, len(sound) / AUDIO_HZ, self._clock())
            case client.Interrupt():
                self._metrics.interrupts.inc()
        if self._tape is not None:
            bare = msgspec.structs.replace(message, buffers=())
            self._tape.add(Heard(time_us=self._since_us(), message=bare, num_samples=len(sound)))

    def fed(self, block: Feed) -> None:
        """A block went to the avatar."""
        self._fed_s = self._clock()
        if self._tape is not None:
            fed = Fed(
                time_us=self._since_us(), is_last=block.is_last, is_underrun=block.is_underrun
            )
            self._tape.add(fed, pcm=block.samples)

    def drawn(
        self, pictures: NDArray[np.uint8], seconds: float, spans: Spans, slack_s: float | None
    ) -> DrawnBlock:
        """The avatar has answered with pictures [m, H, W, 3], ``slack_s`` before they are due."""
        wait_s = max(0.0, self._clock() - self._fed_s - seconds)
        block = DrawnBlock(len(pictures), seconds, wait_s, spans)
        self._metrics.block_s.labels("avatar").observe(seconds)
        for name, span in spans.items():
            self._metrics.block_s.labels(name).observe(span.seconds)
        if len(pictures):
            self._metrics.rtf.set(seconds * VIDEO_FPS / len(pictures))
        if slack_s is not None:
            self._metrics.slack_s.observe(slack_s)
        if self._trace is not None:
            self._trace.block(block)
        if self._tape is not None:
            stages = {name: span.seconds for name, span in spans.items()}
            record = Drawn(
                time_us=self._since_us(),
                num_frames=len(pictures),
                digests=b"",  # the recorder's thread has time for them
                seconds=seconds,
                stages=stages,
            )
            self._tape.add(record, video=pictures)
        return block

    def forgotten(self, num_owed: int) -> None:
        """The avatar has forgotten what had not come out, but for so many pictures."""
        if self._tape is not None:
            self._tape.add(Forgot(time_us=self._since_us(), num_owed=num_owed))

    def ended(self, reason: str) -> None:
        """The session is no more, whether its client was told so or not."""
        if self._tape is not None:
            self._tape.add(End(time_us=self._since_us(), reason=reason))

    def sent(self, message: Message, arrays: Mapping[str, Any], frame: int) -> None:
        """A message is on its way to the client; MEDIA shows the drawn picture ``frame``."""
        if isinstance(message, server.Media):
            self._frame(message, arrays)
        if self._tape is None or isinstance(message, server.Stats):
            return
        bare: Any = msgspec.structs.replace(message, buffers=())
        self._tape.add(Sent(time_us=self._since_us(), message=bare, frame=frame))
        if isinstance(message, server.Closed):
            self._tape.add(End(time_us=self._since_us(), reason=message.reason))

    def _frame(self, message: server.Media, arrays: Mapping[str, Any]) -> None:
        metrics = self._metrics
        metrics.frames.labels(message.kind).inc()
        if message.kind == "late":
            metrics.dropped.labels("late").inc()
        else:
            self._shown_pts = message.pts
        if "audio" in arrays:
            metrics.skew_s.observe((message.pts - self._shown_pts) / AUDIO_HZ)
        if message.num_samples:
            skipped_s = message.num_skipped / AUDIO_HZ
            metrics.skipped_s.inc(skipped_s)
            seconds = message.num_samples / AUDIO_HZ + skipped_s
            age_s = self._arrivals.shown(message.segment, seconds, self._clock())
            if age_s is not None:
                metrics.delay_s.observe(age_s)

    def _since_us(self) -> int:
        return _us(self._clock() - self._opened_s)


def _us(seconds: float) -> int:
    return max(0, round(seconds * 1e6))
