"""One session as the worker hosts it: its value, its clock, and the numbers of its messages."""

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import attrs

from af_runtime.messages import from_client as client
from af_runtime.messages import from_server as server
from af_runtime.messages.codes import Code
from af_runtime.messages.fields import Message
from af_runtime.metrics import Metrics
from af_runtime.observing import Observer, stats
from af_runtime.pacing import SLOT_S, Pacer
from af_runtime.session.drawing import drawn, fallen_behind, feed, forgotten
from af_runtime.session.history import History
from af_runtime.session.receiving import opened, receive
from af_runtime.session.reports import closed
from af_runtime.session.sending import granted, repeat, send, settled
from af_runtime.session.state import Feed, Outgoing, Phase, Picture, Session, Step
from af_runtime.stage_times import Spans
from af_runtime.transport.base import Peer

GRACE_S = SLOT_S / 2
"""How late a picture may be before another is sent in its place."""

STALL_S = 0.5
"""Beyond this the clock stands still: nobody wants half a second of repeated pictures at once."""

NEVER = float("inf")


@attrs.define
class Interruption:
    """The last interruption of a session, until frames have come that were drawn after it."""

    at_s: float | None = None
    is_silent: bool = False
    """Whether a frame was sent that was drawn after it."""

    @property
    def is_waiting(self) -> bool:
        """Whether there is something left to measure."""
        return self.at_s is not None

    def note(self, is_speech: bool, now_s: float, metrics: Metrics) -> None:
        """Measure how long the first new frame took, and the first of new speech."""
        assert self.at_s is not None
        if not self.is_silent:
            metrics.silence_s.observe(now_s - self.at_s)
            self.is_silent = True
        if is_speech:
            metrics.new_speech_s.observe(now_s - self.at_s)
            self.at_s = None


class Hosted:
    """A session, and the messages that wait to be sent to its client."""

    def __init__(
        self,
        session: Session,
        peer: Peer,
        stream: int,
        now_s: float,
        metrics: Metrics,
        observer: Observer | None = None,
    ) -> None:
        self.session, self.peer, self.stream = session, peer, stream
        self.observer = observer or Observer(metrics, lambda: now_s)
        self.understands: Callable[[Peer, str], bool] = lambda peer, feature: False
        """Whether a client knows an optional part of the protocol; it may change with the line."""
        self.opened_s = now_s
        self._metrics = metrics
        self._pacer: Pacer | None = None
        self._is_late = self._is_starved = False
        self._block_s = 0.0
        self._interrupted = Interruption()
        self.history = History()
        self.detached_s = self.held_until_s = self._held_s = NEVER
        self.waiting: list[tuple[client.InSession, Any]] = []
        """Messages that came while the session stood still."""
        self._frame = -1
        self._outbox: list[Outgoing] = []
        self._unsent: deque[Outgoing] = deque()

    @property
    def num_outgoing(self) -> int:
        """Messages that wait to be sent."""
        return len(self._outbox)

    @property
    def told(self) -> dict[str, Any]:
        """What logs say of it."""
        one = self.session
        return {"session": one.name, "pacing": one.rules.pacing, "frames": one.num_sent}

    @property
    def is_closed(self) -> bool:
        """Whether the session has ended."""
        return self.session.phase is Phase.CLOSED

    def stand_in_line(self, position: int, retry_after_ms: int) -> None:
        """All places are taken: tell the client where it stands."""
        message = server.Queued(
            session=self.session.name, position=position, retry_after_ms=retry_after_ms
        )
        self._outbox.append((message, {}))

    def sit_down(self, now_s: float) -> None:
        """The session has a place from now on."""
        self.opened_s = now_s
        self.session = attrs.evolve(self.session, phase=Phase.OPENING)

    @property
    def is_detached(self) -> bool:
        """Whether its client has no line to it."""
        return self.detached_s != NEVER

    @property
    def is_held(self) -> bool:
        """Whether it stands still, about to be taken elsewhere."""
        return self.held_until_s != NEVER

    @property
    def is_still(self) -> bool:
        """Whether nothing is drawn or sent for it now."""
        return self.is_detached or self.is_held

    def seen(self, token: str = "", ttl_ms: int = 0) -> None:
        """The avatar has seen the portrait; the token is for a client that comes back."""
        if self.session.phase is Phase.OPENING:
            self._note(opened(self.session, token, ttl_ms))

    def detach(self, now_s: float) -> None:
        """The line to its client is lost: wait for another."""
        self.detached_s = now_s
        self._unsent.clear()

    def resume(self, peer: Peer, next_seq: int, now_s: float) -> None:
        """Go on with a client on another line, which has all messages before this number.

        Raises `LookupError` if those after it are not kept any more.
        """
        self._number()
        self._unsent = deque(self.history.since(next_seq))
        self.history.heard(next_seq)
        if self.is_detached:
            self._lose(now_s - self.detached_s)
        self.peer, self.detached_s = peer, NEVER
        self._pacer = self._pacer and self._pacer.held(now_s)

    def hold(self, now_s: float, until_s: float) -> None:
        """Stand still: draw and send nothing, and let messages wait."""
        self._number()
        self._held_s, self.held_until_s = now_s, until_s

    def thaw(self, now_s: float) -> list[tuple[client.InSession, Any]]:
        """Go on; return the messages that have waited."""
        self.held_until_s = NEVER
        self._lose(now_s - self._held_s)
        self._pacer = self._pacer and self._pacer.held(now_s)
        waiting, self.waiting = self.waiting, []
        return waiting

    def receive(self, message: client.InSession, pcm: Any, now_s: float) -> None:
        """Take a message of the client; raises `ProtocolError`."""
        after = receive(self.session, message, pcm, cover=self._cover_frames())
        self.observer.received(message, pcm)
        self._note(after)
        if isinstance(message, client.Interrupt):
            self._is_late = False
            self._interrupted = Interruption(now_s)

    def drawn(
        self, pictures: Picture, seconds: float, spans: Spans | None = None, now_s: float = NEVER
    ) -> None:
        """The avatar has answered a block, by ``now_s``."""
        slack_s = self._due_s(len(self.session.ready)) - now_s if self._pacer else None
        block = self.observer.drawn(pictures, seconds, spans or {}, slack_s)
        self._block_s = max(seconds, 0.9 * self._block_s)
        if self.understands(self.peer, "stats"):
            self._outbox.append((stats(self.session.name, block), {}))
        before = len(self.session.ready)
        self.session = drawn(self.session, pictures)
        discarded = before + len(pictures) - len(self.session.ready)
        self._metrics.dropped.labels("discarded").inc(discarded)

    def forgotten(self, num_owed: int) -> None:
        """The avatar has forgotten what had not come out."""
        self.session = forgotten(self.session, num_owed)
        self.observer.forgotten(num_owed)

    def close(self, reason: str) -> None:
        """End the session now."""
        if not self.is_closed:
            self._note(closed(self.session, reason))

    def feed(self) -> Feed | None:
        """Return the next block for the avatar, if it may hear one now."""
        self.session, block = feed(self.session, fill=self._may_fill())
        if block is not None:
            self._starve(block.is_underrun)
            self.observer.fed(block)
        return block

    def advance(self, now_s: float) -> None:
        """Send what may be sent by now, grant credit, and close what has come to its end."""
        for step in self._play(now_s):
            self._note(step)
        self._note(granted(self.session))
        self._note(settled(self.session))

    def wake_s(self) -> float:
        """Return when `advance` has something to do though nothing arrives."""
        is_idle = self.is_still or self.is_closed
        if self._pacer is None or is_idle or not self.session.has_video_credit:
            return NEVER
        if self.session.ready:
            return self._pacer.due_s
        return self._pacer.due_s + GRACE_S if self._may_repeat else NEVER

    def note_sent(self, message: Message, now_s: float) -> None:
        """A message is with the transport: of the first frame, note how long it took."""
        if isinstance(message, server.Media) and message.pts == 0:
            self._metrics.first_frame_s.observe(now_s - self.opened_s)

    def outgoing(self) -> Iterator[Outgoing]:
        """Return the messages that wait, numbered, and forget them."""
        self._number()
        while self._unsent:
            yield self._unsent.popleft()

    def _number(self) -> None:
        """Number the messages that wait; from now on they are kept until they are heard."""
        self._unsent += [self.history.add(*one) for one in self._outbox]
        self._outbox.clear()

    def _cover_frames(self) -> int:
        """Return the frames that last while the window fills anew; none if no time passes."""
        rules = self.session.rules
        if rules.pacing == "fast":
            return 0
        blocks = rules.lookahead_frames // rules.block_frames + 1
        return math.ceil(blocks * self._block_s / SLOT_S)

    def _may_fill(self) -> bool:
        """Whether silence may be put in where no speech is waiting: only to keep real time.

        While an utterance is open, as late as possible: its sound may just be on its way.
        """
        if self.session.rules.pacing == "fast":
            return False
        size = self.session.rules.block_frames
        most = size // 4 if self.session.is_speech_open else size - 1
        return len(self.session.ready) <= most

    def _play(self, now_s: float) -> Iterable[Step]:
        """Yield the steps that send the frames that are due; each begins with the one before."""
        if self.session.rules.pacing == "fast":
            while self.session.ready and self.session.has_video_credit:
                yield self._sent(now_s)
            return
        while (step := self._next_slot(now_s)) is not None:
            yield step

    def _next_slot(self, now_s: float) -> Step | None:
        session = self.session
        if self._pacer is None:
            if not session.ready:
                return None
            self._pacer = Pacer(now_s)
        late_s = now_s - self._pacer.due_s
        if late_s < 0:
            return None
        if not session.has_video_credit or late_s > STALL_S:
            self._pacer = self._pacer.held(now_s)
        if not session.has_video_credit:
            return None
        if late_s > STALL_S:
            self._lose(late_s)
            late_s = 0.0
        session = self.session
        return self._shown(now_s, late_s) if session.ready else self._missed(late_s)

    def _shown(self, now_s: float, late_s: float) -> Step:
        """Send the frame that is ready, ``late_s`` after its time."""
        assert self._pacer is not None
        is_late = late_s > SLOT_S
        if is_late:
            self._miss()
        if is_late and self.session.late_policy == "stretch":
            self._pacer = self._pacer.held(now_s)
        self._is_late = is_late
        self._pacer = self._pacer.after()
        return self._sent(now_s, is_late=is_late and self.session.late_policy == "drop")

    def _sent(self, now_s: float, *, is_late: bool = False) -> Step:
        """Send the frame that is ready, and note the first ones after an interruption."""
        tag = self.session.ready[0].tag
        if self._interrupted.is_waiting and not tag.is_cover:
            self._interrupted.note(tag.segment is not None, now_s, self._metrics)
        return send(self.session, is_late=is_late)

    def _missed(self, late_s: float) -> Step | None:
        """Nothing is ready though a frame is due: repeat the last one, or wait."""
        assert self._pacer is not None
        if not self._may_repeat or late_s < GRACE_S or self.session.shown is None:
            return None
        self._miss()
        self._pacer = self._pacer.after()
        return repeat(self.session)

    @property
    def _may_repeat(self) -> bool:
        """Whether the last picture is shown again while the next is late."""
        return self.session.late_policy in ("repeat", "catch_up") and not self.session.is_flushed

    def _lose(self, seconds: float) -> None:
        """Time has passed in which nothing could be shown: speech is so much later now."""
        self.session = fallen_behind(self.session, round(seconds / SLOT_S))

    def _miss(self) -> None:
        """Count and tell that frames begin to be late."""
        if not self._is_late:
            self._metrics.misses.labels("avatar").inc()
            self._warn(Code.DEADLINE_MISSED, "A frame was not drawn in time.")
        self._is_late = True

    def _starve(self, is_underrun: bool) -> None:
        """Count blocks that lack speech, and tell of the first in a row."""
        if is_underrun:
            self._metrics.underruns.inc()
            if not self._is_starved:
                self._warn(Code.AUDIO_UNDERRUN, "Speech was due and had not come.")
        self._is_starved = is_underrun

    def _due_s(self, slots: int) -> float:
        """Return when the frame after so many others is due."""
        assert self._pacer is not None
        return self._pacer.due_s + slots * SLOT_S

    def _warn(self, code: Code, text: str) -> None:
        warning = server.Warn(session=self.session.name, code=code, message=text)
        self._note((self.session, ((warning, {}),)))

    def _note(self, step: Step) -> None:
        before, (self.session, out) = self.session, step
        self._outbox += out
        for message, arrays in out:
            if isinstance(message, server.Media) and message.kind != "repeat":
                self._frame = before.ready[0].number
            self.observer.sent(message, arrays, self._frame)
