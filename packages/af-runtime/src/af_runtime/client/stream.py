"""One session as its client keeps it: credits, epochs, and frames that wait to be taken.

Nothing here waits. ``post`` sends a message; the methods named ``take`` return None when there is
nothing. The lock is the connection's: its thread calls `receive`, any thread the rest.
"""

from collections import deque
from collections.abc import Callable, Mapping
from threading import RLock
from typing import Any, Literal

import numpy as np
from af_audio import Resampler
from af_core.geometry import AUDIO_HZ, SAMPLES_PER_FRAME
from numpy.typing import NDArray

from af_runtime.client.values import (
    BlockDrawn,
    Event,
    MediaFrame,
    Queued,
    SegmentFinished,
    SegmentStarted,
    Warned,
)
from af_runtime.errors import RequestError, ServiceError
from af_runtime.messages import from_client as client
from af_runtime.messages import from_server as server
from af_runtime.messages.codes import Code
from af_runtime.messages.fields import LatePolicy, OfSession
from af_runtime.session.history import History

PIECE = AUDIO_HZ // 2
"""Samples of one AUDIO message at most."""

KEPT_EVENTS = 1_024
"""Events that are not taken are forgotten beyond these, oldest first."""

SILENCE = np.zeros(SAMPLES_PER_FRAME, np.float32)

Sound = NDArray[np.float32]
Post = Callable[..., None]


class StreamCore:
    """The client's side of one session."""

    def __init__(self, name: str, post: Post, lock: RLock, *, window: int) -> None:
        self.name, self.lock = name, lock
        self._post, self._window = post, window
        self._history = History(next_seq=1)
        self._next_heard = 0
        self.token, self.patience_s = "", 0.0
        self.needs_resume = False
        """Whether messages were lost, or the worker does not know this line."""
        self._is_away = False
        self.epoch = self.segment = 0
        self.is_open = self.is_closed = False
        self.error: ServiceError | None = None
        self.queued: Queued | None = None
        """Where it waits for a place, if it does."""
        self._events: deque[Event] = deque(maxlen=KEPT_EVENTS)
        self._coming: deque[MediaFrame | Event] = deque()
        self._waiting: deque[Sound] = deque()
        self._resampler: Resampler | None = None
        self._rate = AUDIO_HZ
        self._has_spoken = False
        self._audio_limit = self._num_pushed = 0
        self._num_taken = 0
        self._video_limit = window
        self._shown: NDArray[np.uint8] | None = None

    def open(self, message: client.Open, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Ask the worker for the session."""
        self._post(message, **arrays)

    def push(self, pcm: NDArray[Any], sample_rate: int) -> None:
        """Take sound of the present utterance, [n] at any rate; `pump` sends what it may."""
        with self.lock:
            self._require_alive()
            self._waiting.extend(_pieces(self._resampled(_checked(pcm), sample_rate)))
        self.pump()

    def pump(self) -> bool:
        """Send what credit allows; return whether all that was pushed has left."""
        with self.lock:
            while self._waiting and not self.is_closed:
                room = self._audio_limit - self._num_pushed
                if room == 0:
                    return False
                piece = self._waiting.popleft()
                if room < len(piece):
                    self._waiting.appendleft(piece[room:])
                    piece = piece[:room]
                self._num_pushed += len(piece)
                self._has_spoken = True
                self._say(client.Audio, {"pcm": piece}, segment=self.segment, epoch=self.epoch)
            return True

    def end_speech(self) -> None:
        """Let the resampler give what it holds back."""
        with self.lock:
            if self._resampler is not None:
                self._waiting.extend(_pieces(self._resampler.flush()[0]))
                self._resampler = None
        self.pump()

    def end_segment(self) -> int:
        """End the utterance, all of which has left; return its number."""
        with self.lock:
            self._require_alive()
            ended, self.segment = self.segment, self.segment + 1
            self._has_spoken = False
            self._say(client.SegmentEnd, segment=ended, epoch=self.epoch)
            return ended

    def interrupt(self, mode: Literal["now", "block"]) -> int:
        """Stop speaking: discard what waits here, and let the worker do so; return the epoch."""
        with self.lock:
            self._require_alive()
            self.epoch, self.segment = self.epoch + 1, self.segment + self._has_spoken
            self._has_spoken, self._resampler = False, None
            self._waiting.clear()
            self._say(client.Interrupt, epoch=self.epoch, mode=mode)
            self._num_taken += sum(isinstance(one, MediaFrame) for one in self._coming)
            self._coming = deque(x for x in self._coming if not isinstance(x, MediaFrame))
            self._grant()
            return self.epoch

    def update(self, late_policy: LatePolicy) -> None:
        """Change what is done about late frames."""
        with self.lock:
            self._require_alive()
            self._say(client.Update, late_policy=late_policy)

    def close(self, mode: Literal["drain", "abort"]) -> None:
        """Let the session end; nothing happens if it has ended."""
        with self.lock:
            if not self.is_closed:
                self._say(client.Close, mode=mode)

    def waiting_error(self, timeout_s: float) -> ServiceError | None:
        """Wait for a place no longer; return the error that says so, if it was waiting."""
        with self.lock:
            if self.queued is None:
                return None
            place = f"number {self.queued.position} in line"
            self.close("abort")
        text = f"All places of the worker are taken: {place} after {timeout_s:g} s."
        return ServiceError(Code.ADMIT_FULL, text, retryable=True)

    def take_frame(self) -> MediaFrame | None:
        """Return the next frame, if one is there, and grant credit for another."""
        with self.lock:
            self._pass_events()
            if not self._coming:
                return None
            frame = self._coming.popleft()
            assert isinstance(frame, MediaFrame)
            self._num_taken += 1
            self._grant()
            return frame

    def take_events(self) -> list[Event]:
        """Return what has happened up to the frame that is next."""
        with self.lock:
            self._pass_events()
            events = list(self._events)
            self._events.clear()
            return events

    def suspend(self) -> None:
        """The line is lost: keep what is to be said until the session has resumed."""
        with self.lock:
            self._is_away = True

    def moved(self, post: Post, token: str) -> None:
        """The session lives at another worker, to which this posts."""
        with self.lock:
            self.suspend()
            self._post, self.token = post, token

    def resume(self) -> None:
        """Ask the worker to go on from what has come here."""
        with self.lock:
            self.needs_resume, self._is_away = False, True
            self._post(client.Resume(session=self.name, token=self.token, next_seq=self.next_heard))

    @property
    def next_heard(self) -> int:
        """Number of the next message of the worker."""
        return self._next_heard

    def confirmed(self, next_seq: int) -> None:
        """The worker has all messages before this one."""
        with self.lock:
            self._history.heard(next_seq)

    def fail(self, error: ServiceError) -> None:
        """The session is no more."""
        with self.lock:
            if not self.is_closed:
                self.error, self.is_closed = error, True

    def receive(self, message: server.FromServer, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Take a message of the worker."""
        with self.lock:
            if isinstance(message, OfSession) and not self._is_next(message.seq):
                return
            match message:
                case server.Opened():
                    self._audio_limit, self.is_open = message.audio_limit, True
                    self.queued = None
                    self.token, self.patience_s = message.resume_token, message.resume_ttl_ms / 1e3
                case server.Queued(position=position, retry_after_ms=after_ms):
                    self.queued = Queued(position, after_ms / 1e3)
                case server.Resumed():
                    self._resumed(message)
                case server.Error(code=Code.SESSION_UNKNOWN) if self.token:
                    self.needs_resume = not self._is_away
                case server.AudioCredit():
                    self._audio_limit = max(self._audio_limit, message.audio_limit)
                case server.Media():
                    self._take(message, arrays)
                case server.SegmentStarted(segment=segment, epoch=epoch, pts=pts):
                    self._coming.append(SegmentStarted(segment, epoch, pts))
                case server.SegmentFinished(segment=segment, epoch=epoch, position=position):
                    ended = SegmentFinished(segment, epoch, position, message.interrupted)
                    self._coming.append(ended)
                case server.Warn(code=code):
                    self._coming.append(Warned(code, message.message))
                case server.Stats():
                    self._coming.append(_block_drawn(message))
                case server.Error() if message.fatal:
                    text, code = message.message, message.code
                    self.fail(ServiceError(code, text, retryable=message.retryable))
                case server.Closed(reason="drained" | "aborted"):
                    self.is_closed = True
                case server.Closed():
                    text = f"The worker has ended the session: {message.reason}."
                    self.fail(ServiceError(message.reason, text, retryable=True))
        self.pump()

    def _take(self, message: server.Media, arrays: Mapping[str, NDArray[Any]]) -> None:
        picture = arrays.get("video", self._shown)
        if message.epoch < self.epoch or picture is None:
            self._num_taken += 1
            self._grant()
            return
        self._shown = picture
        audio = arrays.get("audio")
        frame = MediaFrame(
            video=picture,
            audio=SILENCE if audio is None else audio,
            pts=message.pts,
            epoch=message.epoch,
            segment=None if audio is None else message.segment,
            num_samples=message.num_samples,
            num_skipped=message.num_skipped,
            is_repeat=message.kind in ("repeat", "late"),
        )
        self._coming.append(frame)

    def _is_next(self, seq: int) -> bool:
        """Whether a message is the next one; others have come already, or some before it have not.

        Those are lost with the line, and come again after RESUME.
        """
        self.needs_resume |= seq > self._next_heard and bool(self.token) and not self._is_away
        is_next = seq == self._next_heard
        self._next_heard += is_next
        return is_next

    def _resumed(self, message: server.Resumed) -> None:
        """Say again what the worker has not heard."""
        self.token, self._is_away = message.resume_token, False
        try:
            self._history.heard(message.next_seq)
            for one, arrays in self._history.since(message.next_seq):
                self._post(one, **arrays)
        except LookupError as e:
            text = f"Too much was lost with the line: {e}"
            self.fail(ServiceError(Code.RESUME_DENIED, text, retryable=True))

    def _pass_events(self) -> None:
        """Let events happen that come before the next frame."""
        while self._coming and not isinstance(event := self._coming[0], MediaFrame):
            self._events.append(event)
            self._coming.popleft()

    def _grant(self) -> None:
        """Let more frames come, once half of the window is free."""
        limit = self._num_taken + self._window
        if not self.is_closed and limit - self._video_limit >= self._window // 2:
            self._video_limit = limit
            self._say(client.VideoCredit, video_limit=limit)

    def _say(
        self, kind: Callable[..., Any], arrays: Mapping[str, Any] | None = None, **fields: Any
    ) -> None:
        message, buffers = self._history.add(kind(session=self.name, **fields), arrays or {})
        if not self._is_away:
            self._post(message, **buffers)

    def _resampled(self, pcm: Sound, rate: int) -> Sound:
        if self._resampler is None:
            self._resampler, self._rate = Resampler(rate), rate
        if rate != self._rate:
            raise RequestError(
                f"This utterance began at {self._rate} Hz and goes on at {rate}; end it first."
            )
        return self._resampler.step(pcm[None])[0]

    def _require_alive(self) -> None:
        if self.error is not None:
            raise self.error
        if self.is_closed:
            raise RequestError("This stream has ended; open another.")


def _block_drawn(message: server.Stats) -> BlockDrawn:
    stages = {name: us / 1e6 for name, us in message.stages_us.items()}
    return BlockDrawn(message.frames, message.draw_us / 1e6, message.wait_us / 1e6, stages)


def _checked(pcm: NDArray[Any]) -> Sound:
    """Return mono sound as float32 [n]; 16-bit integers are scaled."""
    samples = np.asarray(pcm)
    if samples.dtype == np.int16:
        samples = samples.astype(np.float32) / np.float32(32768)
    if samples.ndim != 1 or samples.dtype != np.float32 or not np.isfinite(samples).all():
        raise RequestError(
            f"Sound is float32 or int16 [n], mono and finite; this is {samples.dtype} "
            f"{list(samples.shape)}."
        )
    return samples


def _pieces(sound: Sound) -> list[Sound]:
    """Cut sound into messages; a copy, since it is sent later and without another."""
    return [sound[i : i + PIECE].copy() for i in range(0, len(sound), PIECE)]
