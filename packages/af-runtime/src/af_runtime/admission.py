"""Who may come in: the sessions of a worker, its places, the line before them, and the quotas.

A session that may not come in has an objection, which is a code and a sentence.
"""

from collections import deque
from collections.abc import Sequence
from typing import Any

import attrs
from af_core.pipeline import AvatarInfo

from af_runtime.errors import ProtocolError
from af_runtime.hosting import Hosted
from af_runtime.messages import from_client as client
from af_runtime.messages.codec import Packet
from af_runtime.messages.codes import Code
from af_runtime.messages.fields import QUEUE, OfSession
from af_runtime.quotas import Quotas
from af_runtime.session.state import Phase, Rules, Session
from af_runtime.transport.base import Peer
from af_runtime.waiting import Line

ENDED = 256
"""Sessions that have ended, of which it is still known."""


@attrs.frozen
class Limits:
    """How much one worker takes on."""

    max_sessions: int = 4
    max_sessions_per_client: int = 4
    """Where there are no keys; a key has its quota."""
    queue: int = 0
    """Sessions that may wait for a place."""
    together: bool = False
    """Whether blocks of several sessions that wait at the same time are drawn as one."""
    audio_window: int = 30 * 16_000
    """Samples of speech of one session that may wait."""
    silence_s: float = 15.0
    """A client that is silent for as long has gone."""
    resume_ttl_s: float = 15.0
    """How long a session waits for a client whose line was lost."""
    idle_turn_s: float = 0.5
    """The loop looks around at least this often."""


@attrs.define
class Heard:
    """What is known of a connection."""

    user: str
    """The public key it came with; empty where there are no keys."""
    at_s: float = 0.0
    """When it was heard last."""
    features: tuple[str, ...] = ()
    """Optional parts of the protocol that it understands."""


class Admission:
    """Keeps the sessions of a worker, and knows who may open another."""

    def __init__(self, limits: Limits, quotas: Quotas | None = None) -> None:
        self.limits, self.quotas = limits, quotas or Quotas()
        self.sessions: dict[int, Hosted] = {}
        """Those that have a place and those that wait, by stream."""
        self.line = Line(limits.max_sessions, limits.queue)
        self.peers: dict[Peer, Heard] = {}
        self._ended: deque[tuple[Peer, str]] = deque(maxlen=ENDED)

    @property
    def num_placed(self) -> int:
        """Sessions that have a place."""
        return len(self.sessions) - len(self.line)

    @property
    def is_full(self) -> bool:
        """Whether a new session would have to wait."""
        return len(self.sessions) >= self.limits.max_sessions

    def of(self, peer: Peer) -> list[Hosted]:
        """Return the sessions of a connection."""
        return [one for one in self.sessions.values() if one.peer == peer]

    def find(self, peer: Peer, name: str | None) -> Hosted | None:
        """Return a session of a connection by its name."""
        return next((one for one in self.of(peer) if one.session.name == name), None)

    def leave(self, hosted: Hosted) -> bool:
        """Forget a session that has ended; return whether it had a place until now."""
        was_waiting = self.line.leave(hosted.stream)
        had_place = self.sessions.pop(hosted.stream, None) is not None and not was_waiting
        self._ended.append((hosted.peer, hosted.session.name))
        return had_place

    def known(self, peer: Peer, message: client.InSession) -> Hosted | None:
        """Return the session of a connection that a message is for; raises `ProtocolError`.

        None for credit of one that has ended: it was sent before its client could know.
        """
        name = message.session
        hosted = self.find(peer, name)
        is_late = isinstance(message, client.VideoCredit) and (peer, name) in self._ended
        if hosted is None and not is_late:
            text = f"There is no session {name!r} of this connection."
            raise ProtocolError(Code.SESSION_UNKNOWN, text, name)
        return hosted

    def heard(self, peer: Peer, ping: client.Ping) -> dict[str, int]:
        """Forget messages that a client has, and return what has come of it."""
        for hosted in self.of(peer):
            hosted.history.heard(ping.heard.get(hosted.session.name, 0))
        return {one.session.name: one.session.next_seq for one in self.of(peer)}

    def hear(self, peer: Peer, user: str, now_s: float) -> list[Hosted]:
        """Note a sign of life of a connection; return sessions that are not its own.

        A name that comes with another key is another client's, whose sessions it must not have.
        """
        heard, strange = self.peers.get(peer), []
        if heard is None or heard.user != user:
            strange = self.of(peer)
            for one in strange:
                one.peer = b""
            heard = self.peers[peer] = Heard(user)
        heard.at_s = now_s
        return strange

    def charge(
        self, peer: Peer, packet: Packet[client.FromClient], num_bytes: int, now_s: float
    ) -> None:
        """Count a message against the quota of its key; raises `ProtocolError`."""
        message, pcm = packet.message, packet.arrays.get("pcm")
        num_samples = 0 if pcm is None else len(pcm)
        try:
            self.quotas.charge(
                self.peers[peer].user, num_bytes=num_bytes, num_samples=num_samples, now_s=now_s
            )
        except ProtocolError as e:
            e.session = message.session if isinstance(message, OfSession) else None
            raise

    def silent(self, now_s: float) -> list[Peer]:
        """Forget the connections that were silent for too long, and return them."""
        limit = self.limits.silence_s
        gone = [peer for peer, heard in self.peers.items() if now_s - heard.at_s > limit]
        for peer in gone:
            del self.peers[peer]
        return gone

    def understands(self, peer: Peer, feature: str) -> bool:
        """Return whether a client that is there knows an optional part of the protocol."""
        return peer in self.peers and feature in self.peers[peer].features

    def objection(self, peer: Peer, name: str, seq: int, may_wait: bool) -> tuple[Code | None, str]:
        """Return why a session cannot be opened, or taken over, if so."""
        if seq:
            return Code.SEQ_GAP, f"OPEN is message 0 of its session, not {seq}."
        if any(one.session.name == name for one in self.sessions.values()):
            return Code.SESSION_EXISTS, f"There is a session {name!r} already."
        heard = self.peers[peer]
        most, mine = self._most(heard), self._of_client(peer, heard)
        if most is not None and len(mine) >= most:
            return Code.AUTH_QUOTA, f"A client may have {most} sessions at a time."
        if self.is_full and not (may_wait and not self.line.is_full):
            waiting = f", and {len(self.line)} wait" if len(self.line) else ""
            return Code.ADMIT_FULL, f"All {self.limits.max_sessions} places are taken{waiting}."
        return None, ""

    def _most(self, heard: Heard) -> int | None:
        if heard.user:
            return self.quotas.quota(heard.user).sessions
        return self.limits.max_sessions_per_client

    def _of_client(self, peer: Peer, heard: Heard) -> Sequence[Hosted]:
        """Return the sessions of a key, or, where there are none, of a connection."""
        if not heard.user:
            return self.of(peer)
        theirs = {one for one, known in self.peers.items() if known.user == heard.user}
        return [one for one in self.sessions.values() if one.peer in theirs]

    def greeted(self, peer: Peer, hello: client.Hello) -> tuple[str, ...]:
        """Note what a client understands; return what this worker offers of admission."""
        self.peers[peer].features = hello.features
        return (QUEUE,) if self.limits.queue else ()

    def new_session(self, message: client.Open, info: AvatarInfo) -> Session:
        """Return a session that has a place, or waits if there is none."""
        frame_ms = 1e3 / info.fps
        rules = Rules(
            block_frames=info.frames_per_block,
            lookahead_frames=-int(-info.lookahead_ms // frame_ms),
            audio_window=self.limits.audio_window,
            pacing=message.pacing,
        )
        return Session(
            name=message.session,
            rules=rules,
            late_policy=message.late_policy,
            phase=Phase.QUEUED if self.is_full else Phase.OPENING,
            video_limit=message.video_limit,
        )

    def retry_after_ms(self, code: Code) -> int:
        """Return when it may be tried again to open what was refused; 0 for soon, or never."""
        return self.line.retry_after_ms(len(self.line) + 1) if code is Code.ADMIT_FULL else 0

    def status(self) -> dict[str, Any]:
        """Return what people want to know of places and line."""
        return {
            "sessions": self.num_placed,
            "max_sessions": self.limits.max_sessions,
            "queued": len(self.line),
            "max_queued": self.limits.queue,
        }
