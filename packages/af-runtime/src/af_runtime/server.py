"""The stream worker: takes messages from a transport, keeps sessions, and sends their frames.

One thread runs the loop and owns the transport; the avatar draws on another. So an interruption is
answered while a block is being drawn.
"""

import itertools
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any

import attrs
from af_core.errors import AvatarForcingError
from af_core.geometry import SAMPLES_PER_FRAME
from af_core.pipeline import Avatar
from numpy.typing import NDArray

from af_runtime.errors import PeerGoneError, ProtocolError
from af_runtime.hosting import NEVER, Hosted
from af_runtime.lanes import Lanes
from af_runtime.messages import from_client as client
from af_runtime.messages import from_server as server
from af_runtime.messages.codec import VERSION, Packet, decode_from_client, encode
from af_runtime.messages.codes import RETRYABLE, Code
from af_runtime.messages.fields import Message
from af_runtime.metrics import Metrics
from af_runtime.session.state import Phase, Rules, Session
from af_runtime.transport.base import Frames, Peer, ServerTransport
from af_runtime.worker import Answer, Drawn, Failed, Seen, Worker

log = logging.getLogger(__name__)

MESSAGES_A_TURN = 64
"""Messages taken before frames that are due are looked at again."""

RETRY_MS = 1_000


@attrs.frozen
class Limits:
    """How much one worker takes on."""

    max_sessions: int = 4
    max_sessions_per_client: int = 4
    audio_window: int = 30 * 16_000
    """Samples of speech of one session that may wait."""
    silence_s: float = 15.0
    """A client that is silent for as long has gone."""
    idle_turn_s: float = 0.5
    """The loop looks around at least this often."""


Portraits = Callable[[str], NDArray[Any]]
"""Returns the portrait of a name, uint8 [H, W, 3]; raises `AvatarForcingError`."""


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
        clock: Callable[[], float] = time.monotonic,
        lanes: int = 1,
    ) -> None:
        self.info, self.limits = avatar.info, limits or Limits()
        self.metrics = metrics or Metrics()
        self._transport, self._portraits, self._clock = transport, portraits, clock
        wake = transport.wake
        self._worker: Worker | Lanes = (
            Worker(avatar, wake) if lanes == 1 else Lanes(avatar, wake, count=lanes)
        )
        self._hosted: dict[int, Hosted] = {}
        self._peers: dict[Peer, float] = {}
        self._streams = itertools.count()
        self._drain_s: float | None = None
        self._deadline_s = NEVER
        self._turned_s = clock()

    @property
    def num_sessions(self) -> int:
        """Sessions that have not ended."""
        return len(self._hosted)

    @property
    def endpoint(self) -> str:
        """Where clients connect to."""
        return self._transport.endpoint

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

    def drain(self, timeout_s: float = 30.0) -> None:
        """Take no new sessions; ``run`` returns when the last has ended, or after the timeout.

        Any thread, and a signal handler, may call it.
        """
        self._drain_s = timeout_s
        self._transport.wake()

    def run(self) -> None:
        """Serve until drained, then end all that is left."""
        try:
            while not (self.is_draining and not self._hosted):
                self._turn()
        finally:
            for hosted in list(self._hosted.values()):
                self._end(hosted, Code.ADMIT_DRAINING)
            self._worker.close()

    def _turn(self) -> None:
        """Wait for something to do, and do it."""
        wake_s = min((one.wake_s() for one in self._hosted.values()), default=NEVER)
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
        self.metrics.handshake_failures.set(self._transport.handshake_failures)
        self._watch(self._turned_s)
        for hosted in list(self._hosted.values()):
            with self._alone(hosted):
                self._advance(hosted, self._turned_s)

    def _advance(self, hosted: Hosted, now_s: float) -> None:
        """Let a session send what is due and hear what it may."""
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
        """Send what a session has to say; if its client has gone, so has the session."""
        try:
            for message, buffers in hosted.outgoing():
                self._transport.send(hosted.peer, encode(message, **buffers))
                self._note_first_frame(hosted, message)
        except PeerGoneError as e:
            if not hosted.is_closed:
                log.warning("a session has ended: %s", e)
            hosted.close(Code.SESSION_EXPIRED)
        if hosted.is_closed:
            self._forget(hosted)

    def _note_first_frame(self, hosted: Hosted, message: Message) -> None:
        if isinstance(message, server.Media) and message.pts == 0:
            self.metrics.first_frame_s.observe(self._clock() - hosted.opened_s)

    def _forget(self, hosted: Hosted) -> None:
        if self._hosted.pop(hosted.stream, None) is not None:
            self._worker.forget(hosted.stream)
            self.metrics.session_s.observe(self._clock() - hosted.opened_s)
            self.metrics.sessions.set(len(self._hosted))

    def _end(self, hosted: Hosted, reason: str) -> None:
        hosted.close(reason)
        self._flush(hosted)

    def _watch(self, now_s: float) -> None:
        """End the sessions of clients that are silent, and all of them when draining takes long."""
        for peer, heard_s in list(self._peers.items()):
            if now_s - heard_s > self.limits.silence_s:
                del self._peers[peer]
                for hosted in self._of(peer):
                    self._fail(hosted, Code.SESSION_EXPIRED, "The client was silent for too long.")
        if self._drain_s is not None and self._deadline_s == NEVER:
            self._deadline_s = now_s + self._drain_s
            for peer in self._peers:
                self._say(peer, server.Draining(deadline_ms=round(self._drain_s * 1e3)))
        if now_s >= self._deadline_s:
            for hosted in list(self._hosted.values()):
                self._end(hosted, Code.ADMIT_DRAINING)

    def _of(self, peer: Peer) -> list[Hosted]:
        return [one for one in self._hosted.values() if one.peer == peer]

    def _take(self, answer: Answer) -> None:
        """Take an answer of the avatar; its session may have ended meanwhile."""
        hosted = self._hosted.get(answer.stream)
        if hosted is None:
            return
        with self._alone(hosted):
            match answer:
                case Seen():
                    hosted.seen()
                case Drawn():
                    hosted.drawn(answer.pictures, answer.seconds)
                case Failed():
                    self._fail(hosted, answer.code, answer.message)

    def _receive(self, peer: Peer, frames: Frames) -> None:
        """Take what came from a client; whatever it is, the worker goes on."""
        self._peers[peer] = self._clock()
        try:
            self._handle(peer, decode_from_client(frames))
        except ProtocolError as e:
            hosted = self._find(peer, e.session)
            if hosted is None:
                self._refuse(peer, Code(e.code), str(e), e.session or "")
            else:
                self._fail(hosted, Code(e.code), str(e))

    def _handle(self, peer: Peer, packet: Packet[client.FromClient]) -> None:
        message = packet.message
        match message:
            case client.Hello():
                self._greet(peer, message)
            case client.Ping():
                self._say(peer, server.Pong(nonce=message.nonce))
            case client.Open():
                self._open(peer, message, packet.arrays.get("portrait"))
            case _:
                hosted = self._find(peer, message.session)
                if hosted is None:
                    text = f"There is no session {message.session!r} of this connection."
                    self._refuse(peer, Code.SESSION_UNKNOWN, text, message.session)
                else:
                    self._converse(hosted, message, packet.arrays.get("pcm"))

    def _converse(self, hosted: Hosted, message: client.InSession, pcm: Any) -> None:
        with self._alone(hosted):
            hosted.receive(message, pcm)
            self._flush(hosted)

    def _find(self, peer: Peer, name: str | None) -> Hosted | None:
        return next((one for one in self._of(peer) if one.session.name == name), None)

    def _greet(self, peer: Peer, hello: client.Hello) -> None:
        if not hello.min_version <= VERSION <= hello.max_version:
            text = (
                f"This worker speaks version {VERSION}; "
                f"the client {hello.min_version} to {hello.max_version}."
            )
            self._refuse(peer, Code.VERSION, text)
            return
        info = self.info
        lookahead = round(info.lookahead_ms * info.sample_rate / 1e3)
        what = server.Format(
            preset=info.preset,
            width=info.width,
            height=info.height,
            block_samples=info.frames_per_block * SAMPLES_PER_FRAME,
            lookahead_samples=lookahead,
        )
        name = f"af-runtime/{version('af-runtime')}"
        self._say(peer, server.HelloOk(version=VERSION, format=what, server=name))

    def _open(self, peer: Peer, message: client.Open, portrait: NDArray[Any] | None) -> None:
        code, text = self._objection(peer, message)
        if code is not None:
            self._refuse(peer, code, text, message.session)
            return
        try:
            picture = self._portraits(message.portrait) if portrait is None else portrait
        except AvatarForcingError as e:
            self._refuse(peer, Code.REFERENCE_REJECTED, str(e), message.session)
            return
        size = (self.info.height, self.info.width, 3)
        if picture.shape != size:
            text = f"The portrait is {list(picture.shape)}; this avatar takes {list(size)}."
            self._refuse(peer, Code.REFERENCE_REJECTED, text, message.session)
            return
        self._admit(peer, message, picture)

    def _objection(self, peer: Peer, message: client.Open) -> tuple[Code | None, str]:
        """Return why a session cannot be opened, if so."""
        if message.seq != 0:
            return Code.SEQ_GAP, f"OPEN is message 0 of its session, not {message.seq}."
        if self.is_draining:
            return Code.ADMIT_DRAINING, "This worker is about to stop; ask another."
        if any(one.session.name == message.session for one in self._hosted.values()):
            return Code.SESSION_EXISTS, f"There is a session {message.session!r} already."
        if len(self._of(peer)) >= self.limits.max_sessions_per_client:
            most = self.limits.max_sessions_per_client
            return Code.AUTH_QUOTA, f"A client may have {most} sessions at a time."
        if len(self._hosted) >= self.limits.max_sessions:
            return Code.ADMIT_FULL, f"All {self.limits.max_sessions} places are taken."
        return None, ""

    def _admit(self, peer: Peer, message: client.Open, portrait: NDArray[Any]) -> None:
        frame_ms = 1e3 / self.info.fps
        rules = Rules(
            block_frames=self.info.frames_per_block,
            lookahead_frames=-int(-self.info.lookahead_ms // frame_ms),
            audio_window=self.limits.audio_window,
            pacing=message.pacing,
        )
        session = Session(
            name=message.session,
            rules=rules,
            late_policy=message.late_policy,
            phase=Phase.OPENING,
            video_limit=message.video_limit,
        )
        stream = next(self._streams)
        self._hosted[stream] = Hosted(session, peer, stream, self._clock(), self.metrics)
        self._worker.open(stream, portrait, message.seed)
        self.metrics.opened.inc()
        self.metrics.sessions.set(len(self._hosted))

    def _fail(self, hosted: Hosted, code: Code, text: str) -> None:
        """End a session with an error, alone."""
        self._say_error(hosted.peer, code, text, hosted.session.name, fatal=True)
        self._end(hosted, code)

    def _refuse(self, peer: Peer, code: Code, text: str, session: str = "") -> None:
        self.metrics.rejected.labels(code).inc()
        self._say_error(peer, code, text, session, fatal=bool(session))

    def _say_error(self, peer: Peer, code: Code, text: str, session: str, *, fatal: bool) -> None:
        self.metrics.errors.labels(code).inc()
        error = server.Error(
            code=code,
            message=text[:2048],
            session=session,
            fatal=fatal,
            retryable=code in RETRYABLE,
            retry_after_ms=RETRY_MS if code in RETRYABLE else 0,
        )
        self._say(peer, error)

    def _say(self, peer: Peer, message: Message) -> None:
        """Send a message of no session; who has gone does not hear it."""
        try:
            self._transport.send(peer, encode(message))
        except PeerGoneError:
            log.info("a client went before it was answered")
