"""The stream worker: takes messages from a transport, keeps sessions, and sends their frames.

One thread runs the loop and owns the transport; the avatar draws on another. So an interruption is
answered while a block is being drawn.
"""

import itertools
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import attrs
from af_core.pipeline import Avatar
from numpy.typing import NDArray

from af_runtime.admission import Admission
from af_runtime.admission import Limits as Limits
from af_runtime.errors import PeerGoneError, PeerSlowError, ProtocolError
from af_runtime.greeting import Portraits, Refusals, answered, picture_of, refusal
from af_runtime.handing import Desk, Handing
from af_runtime.hosting import NEVER, Hosted
from af_runtime.lanes import workers
from af_runtime.messages import from_client as client
from af_runtime.messages import from_server as server
from af_runtime.messages.codec import Packet, decode_from_client, encode
from af_runtime.messages.codes import Code
from af_runtime.messages.fields import QUEUE, Message
from af_runtime.metrics import Metrics
from af_runtime.movers import Movers
from af_runtime.observing import Observer, Watching
from af_runtime.quotas import Quotas
from af_runtime.session.state import Phase, Session
from af_runtime.transport.base import Frames, Peer, ServerTransport
from af_runtime.waiting import Waiting
from af_runtime.worker import Answer, Drawn, Failed, Forgotten, Kept, Seen

log = logging.getLogger(__name__)

MESSAGES_A_TURN = 64
"""Messages taken before frames that are due are looked at again."""


class Server:
    """Serves one avatar over one transport until it is drained."""

    def __init__(
        self,
        avatar: Avatar,
        transport: ServerTransport,
        *,
        portraits: Portraits,
        limits: Limits | None = None,
        metrics: Metrics | None = None,
        quotas: Quotas | None = None,
        clock: Callable[[], float] = time.monotonic,
        trusts_all: bool = False,
        watching: Watching | None = None,
        lanes: int = 1,
    ) -> None:
        """Begin; ``trusts_all`` lets any client move sessions of others."""
        self.info, self.limits = avatar.info, limits or Limits()
        self.metrics = metrics or Metrics()
        self._transport, self._portraits, self._clock = transport, portraits, clock
        self.watching, wake = watching or Watching(), transport.wake
        self._worker = workers(avatar, wake, together=self.limits.together, count=lanes)
        self.admission = Admission(self.limits, quotas)
        self._sessions = self.admission.sessions
        self.metrics.places.set(self.limits.max_sessions)
        desk = Desk(
            self._sessions,
            self._worker,
            say=self._say,
            refuse=self._refuse,
            fail=self._fail,
            flush=self._flush,
            forget=self._forget,
            place=self._place,
            converse=self._converse,
            objection=self._objection,
            clock=clock,
        )
        self._handing = Handing(desk, ttl_s=self.limits.resume_ttl_s, trusts_all=trusts_all)
        self._can_forget = avatar.can_interrupt
        self._streams, self._refusals = itertools.count(), Refusals()
        self._drain_s: float | None = None
        self._movers: Movers | None = None
        self._deadline_s = NEVER
        self._began_s = self._turned_s = clock()

    @property
    def hosted(self) -> list[Hosted]:
        """The sessions that have not ended; any thread may ask."""
        return list(self._sessions.values())

    @property
    def handshake_failures(self) -> Mapping[str, int]:
        """Connections that were refused, by reason."""
        return self._transport.handshake_failures

    @property
    def num_sessions(self) -> int:
        """Sessions that have a place and have not ended."""
        return self.admission.num_placed

    @property
    def endpoint(self) -> str:
        """Where clients connect to."""
        return self._transport.endpoint

    @property
    def up_s(self) -> float:
        """Seconds since it was made."""
        return self._clock() - self._began_s

    @property
    def silent_s(self) -> float:
        """Seconds since the loop last turned."""
        return self._clock() - self._turned_s

    @property
    def is_draining(self) -> bool:
        """Whether no new session is taken any more."""
        return self._drain_s is not None

    @property
    def busy_s(self) -> float:
        """Seconds the job that runs has taken so far."""
        since = self._worker.busy_since_s
        return 0.0 if since is None else time.monotonic() - since

    def drain(self, timeout_s: float = 30.0, movers: Movers | None = None) -> None:
        """Take no new sessions; ``run`` returns when the last has ended, or after the timeout.

        ``movers`` take those that run to another worker. Any thread, and a signal handler, may
        call it.
        """
        self._drain_s, self._movers = timeout_s, movers
        self._transport.wake()

    def run(self) -> None:
        """Serve until drained, then end all that is left."""
        try:
            while not (self.is_draining and self._is_done()):
                self._turn()
        finally:
            for hosted in list(self._sessions.values()):
                self._end(hosted, Code.ADMIT_DRAINING)
            self._worker.close()

    def _is_done(self) -> bool:
        """Whether no session is left, and no client may still ask where its session went."""
        now_s = self._clock()
        return not self._sessions and (now_s >= self._deadline_s or self._handing.is_quiet(now_s))

    def _turn(self) -> None:
        """Wait for something to do, and do it."""
        wake_s = min((one.wake_s() for one in self._sessions.values()), default=NEVER)
        timeout_s = min(wake_s - self._clock(), self.limits.idle_turn_s)
        for _ in range(MESSAGES_A_TURN):
            received = self._transport.receive(max(0.0, timeout_s))
            if received is None:
                break
            self._receive(*received)
            timeout_s = 0.0
        for answer in self._worker.answers():
            self._take(answer)
        self._turned_s = self._clock()
        self._refusals.note(sum(self.handshake_failures.values()), self._turned_s)
        self._watch(self._turned_s)
        self._seat()
        for hosted in list(self._sessions.values()):
            with self._alone(hosted):
                self._advance(hosted, self._turned_s)

    def _seat(self) -> None:
        """Give free places to those who wait, and tell the others how far they have come."""
        while self.num_sessions < self.limits.max_sessions:
            first = self.admission.line.next()
            if first is None:
                break
            first.hosted.sit_down(self._clock())
            self._begin(first)
        self.admission.line.tell()
        self.metrics.waiting.set(len(self.admission.line))

    def _advance(self, hosted: Hosted, now_s: float) -> None:
        """Let a session send what is due and hear what it may."""
        if hosted.is_still:
            return
        hosted.advance(now_s)
        block = hosted.feed()
        if block is not None:
            self._worker.draw(hosted.stream, block.samples, is_last=block.is_last)
        self._flush(hosted)

    @contextmanager
    def _alone(self, hosted: Hosted) -> Iterator[None]:
        """Let what goes wrong with a session end that session and no other."""
        try:
            yield
        except ProtocolError as e:
            self._fail(hosted, Code(e.code), str(e))
        except Exception as e:
            log.exception("a fault of this worker has ended a session")
            self._fail(hosted, Code.INTERNAL, f"A fault of the worker: {type(e).__name__}: {e}")

    def _flush(self, hosted: Hosted) -> None:
        """Send what a session has to say; if its client has gone, it waits for it."""
        if hosted.is_detached:
            return
        try:
            for message, buffers in hosted.outgoing():
                self._transport.send(hosted.peer, encode(message, **buffers))
                hosted.note_sent(message, self._clock())
        except PeerSlowError as e:
            log.warning("a session has ended: %s", e)
            hosted.close(Code.SESSION_EXPIRED)
        except PeerGoneError:
            if hosted.session.phase is Phase.QUEUED:
                hosted.close(Code.SESSION_EXPIRED)
            else:
                hosted.detach(self._clock())
        if hosted.is_closed:
            self._forget(hosted)

    def _forget(self, hosted: Hosted, moved: server.Moved | None = None) -> None:
        if not self.admission.leave(hosted):
            return
        lasted_s = self._clock() - hosted.opened_s
        self._worker.forget(hosted.stream)
        self._handing.forgotten(hosted, moved)
        hosted.observer.ended("closed" if moved is None else "moved")
        self.admission.line.note_length(lasted_s)
        self.metrics.session_s.observe(lasted_s)
        log.info("session ended", extra=hosted.told)

    def _end(self, hosted: Hosted, reason: str) -> None:
        hosted.close(reason)
        self._flush(hosted)
        self._forget(hosted)

    def _watch(self, now_s: float) -> None:
        """End the sessions of clients that are silent, and all of them when draining takes long."""
        for peer in self.admission.silent(now_s):
            for hosted in self.admission.of(peer):
                self._fail(hosted, Code.SESSION_EXPIRED, "The client was silent for too long.")
        if self._drain_s is not None and self._deadline_s == NEVER:
            self._deadline_s = now_s + self._drain_s
            for peer in self.admission.peers:
                self._say(peer, server.Draining(deadline_ms=round(self._drain_s * 1e3)))
            for hosted in self.admission.line.members():
                self._end(hosted, Code.ADMIT_DRAINING)
            if self._movers is not None:
                self._movers.begin(self._handing, self._transport.wake)
        if self._movers is not None:
            self._movers.turn(list(self._sessions.values()), now_s)
        self._handing.watch(now_s)
        if now_s >= self._deadline_s:
            for hosted in list(self._sessions.values()):
                self._end(hosted, Code.ADMIT_DRAINING)

    def _take(self, answer: Answer) -> None:
        """Take an answer of the avatar; its session may have ended meanwhile."""
        hosted = self._sessions.get(answer.stream)
        if hosted is None:
            return
        with self._alone(hosted):
            match answer:
                case Seen() if not self._handing.seen(hosted):
                    token = self._handing.admitted(hosted.stream)
                    hosted.seen(token, self._handing.ttl_ms)
                case Kept():
                    self._handing.kept(hosted, answer)
                case Drawn():
                    hosted.drawn(answer.pictures, answer.seconds, answer.spans, self._clock())
                case Forgotten():
                    hosted.forgotten(answer.num_owed)
                case Failed():
                    self._handing.failed(hosted, answer.code, answer.message)
                    self._fail(hosted, answer.code, answer.message)

    def _receive(self, peer: Peer, frames: Frames) -> None:
        """Take what came from a client; whatever it is, the worker goes on."""
        now_s = self._clock()
        for stranger in self.admission.hear(peer, self._transport.user, now_s):
            stranger.close(Code.SESSION_EXPIRED)
            self._forget(stranger)
        try:
            packet = decode_from_client(frames)
            self.admission.charge(peer, packet, sum(map(len, frames)), now_s)
            self._handle(peer, packet)
        except ProtocolError as e:
            hosted, after_ms = self.admission.find(peer, e.session), e.retry_after_ms
            if hosted is None:
                self._refuse(peer, Code(e.code), str(e), e.session or "", after_ms)
            else:
                self._fail(hosted, Code(e.code), str(e), after_ms)

    def _handle(self, peer: Peer, packet: Packet[client.FromClient]) -> None:
        message = packet.message
        match message:
            case client.Hello():
                self._say(peer, answered(message, self.info, self.admission.greeted(peer, message)))
            case client.Ping():
                self._say(
                    peer,
                    server.Pong(nonce=message.nonce, heard=self.admission.heard(peer, message)),
                )
            case client.Open():
                self._open(peer, message, packet.arrays.get("portrait"))
            case client.Resume() | client.Snapshot() | client.Restore() | client.Release():
                self._handing.handle(peer, message, packet.arrays)
            case _:
                hosted = self.admission.known(peer, message)
                if hosted is not None:
                    self._converse(hosted, message, packet.arrays.get("pcm"))

    def _converse(self, hosted: Hosted, message: client.InSession, pcm: Any) -> None:
        if hosted.is_held:
            hosted.waiting.append((message, pcm))
            return
        with self._alone(hosted):
            self._handing.spoken(hosted)
            was_asked = hosted.session.is_forgetting
            hosted.receive(message, pcm, self._clock())
            if hosted.session.is_forgetting and not was_asked:
                self._worker.interrupt(hosted.stream)
            self._flush(hosted)

    def _open(self, peer: Peer, message: client.Open, portrait: NDArray[Any] | None) -> None:
        may_wait = self.admission.understands(peer, QUEUE)
        code, text = self._objection(peer, message.session, message.seq, may_wait)
        if code is not None:
            self._refuse(peer, code, text, message.session)
            return
        picture = picture_of(message, portrait, self._portraits, self.info)
        self._admit(peer, message, picture)

    def _objection(
        self, peer: Peer, name: str, seq: int = 0, may_wait: bool = False
    ) -> tuple[Code | None, str]:
        """Return why a session cannot be opened or taken over, if so."""
        if self.is_draining:
            return Code.ADMIT_DRAINING, "This worker is about to stop; ask another."
        return self.admission.objection(peer, name, seq, may_wait)

    def _admit(self, peer: Peer, message: client.Open, portrait: NDArray[Any]) -> None:
        session = self.admission.new_session(message, self.info)
        observer = self.watching.observer(message, portrait, self.metrics, self._clock)
        hosted = self._place(session, peer, observer)
        new = Waiting(hosted, portrait, message.seed)
        if session.phase is Phase.QUEUED:
            self.admission.line.join(new)
        else:
            self._begin(new)

    def _place(self, session: Session, peer: Peer, observer: Observer | None = None) -> Hosted:
        """Host a session; one that was begun elsewhere is not recorded."""
        rules = attrs.evolve(session.rules, can_forget=self._can_forget)
        session, stream = attrs.evolve(session, rules=rules), next(self._streams)
        watched = observer or Observer(self.metrics, self._clock)
        hosted = Hosted(session, peer, stream, self._clock(), self.metrics, watched)
        hosted.understands = self.admission.understands
        self._sessions[stream] = hosted
        return hosted

    def _begin(self, new: Waiting) -> None:
        """Let the avatar look at the portrait of a session that has a place."""
        self._worker.open(new.hosted.stream, new.portrait, new.seed)
        self.metrics.opened.inc()
        log.info("session opened", extra=new.hosted.told)

    def _fail(self, hosted: Hosted, code: Code, text: str, after_ms: int = 0) -> None:
        """End a session with an error, alone."""
        self._say_error(hosted.peer, code, text, hosted.session.name, True, after_ms)
        self._end(hosted, code)

    def _refuse(
        self, peer: Peer, code: Code, text: str, session: str = "", after_ms: int = 0
    ) -> None:
        self.metrics.rejected.labels(code).inc()
        after_ms = after_ms or self.admission.retry_after_ms(code)
        self._say_error(peer, code, text, session, bool(session), after_ms)

    def _say_error(
        self, peer: Peer, code: Code, text: str, session: str, fatal: bool, after_ms: int
    ) -> None:
        self.metrics.errors.labels(code).inc()
        log.warning("refused or failed: %s", text[:2048], extra={"code": code, "session": session})
        self._say(peer, refusal(code, text, session, fatal=fatal, after_ms=after_ms))

    def _say(self, peer: Peer, message: Message, **arrays: NDArray[Any]) -> None:
        """Send a message of no session; who has gone does not hear it."""
        try:
            self._transport.send(peer, encode(message, **arrays))
        except PeerGoneError:
            log.info("a client went before it was answered")
