"""Sessions that change hands: from one connection of a client to another, and between workers.

A token says whose session it is. It is drawn anew whenever it was used; the one before stays good
until a message has followed, since the answer that holds the new one may be lost.
"""

import hmac
import logging
import queue
import secrets
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import attrs
from af_core.errors import SnapshotError
from numpy.typing import NDArray

from af_runtime.hosting import Hosted
from af_runtime.lanes import Lanes
from af_runtime.messages import from_client as client
from af_runtime.messages import from_server as server
from af_runtime.messages.codes import Code
from af_runtime.moving import Moving, packed, unpacked
from af_runtime.session.state import Phase, Session
from af_runtime.transport.base import Peer
from af_runtime.worker import Kept, Worker

log = logging.getLogger(__name__)

HELD_S = 5.0
"""How long a session stands still after SNAPSHOT, unless RELEASE ends it."""

TOLD_S = 2.0
"""How long a worker that stops stays for clients that have not heard where their session went.

A socket that is closed with messages in it is reset, and takes with it what it has sent.
"""

NOBODY = b""
"""The peer of a session without a line."""

REMEMBERED = 1_000
"""Sessions that have gone, of which it is still known how."""

Blob = NDArray[Any]
Taken = Callable[[str, "Blob | None", str], None]
"""Called with name, bytes and problem of a session whose snapshot was taken."""


@attrs.define
class Token:
    """Who has it may take a session."""

    value: str = attrs.field(factory=lambda: secrets.token_urlsafe(32))
    former: str = ""

    def fits(self, other: str) -> bool:
        """Whether this is the token; takes as long for a wrong one."""
        known = (self.value, self.former or self.value)
        return sum(hmac.compare_digest(one.encode(), other.encode()) for one in known) > 0

    def used(self, token: str) -> None:
        """Draw another, unless the client has shown the former one: it lacks the present one."""
        if hmac.compare_digest(self.value.encode(), token.encode()):
            self.former, self.value = self.value, secrets.token_urlsafe(32)

    def confirm(self) -> None:
        """The new one has come: the former is void."""
        self.former = ""


@attrs.frozen(eq=False)
class Desk:
    """What handing sessions over needs of the server that hosts them."""

    hosted: Mapping[int, Hosted]
    """Sessions that have not ended, by the number of their stream."""
    worker: Worker | Lanes
    say: Callable[..., None]
    """Sends a message of no session to a peer, with buffers."""
    refuse: Callable[[Peer, Code, str, str], None]
    fail: Callable[[Hosted, Code, str], None]
    flush: Callable[[Hosted], None]
    forget: Callable[[Hosted, server.Moved], None]
    place: Callable[[Session, Peer], Hosted]
    converse: Callable[[Hosted, client.InSession, Any], None]
    objection: Callable[[Peer, str], tuple[Code | None, str]]
    clock: Callable[[], float]

    def named(self, name: str) -> Hosted | None:
        """Return the session of a name, whoever has it."""
        return next((one for one in self.hosted.values() if one.session.name == name), None)


class Handing:
    """What a server does about RESUME, SNAPSHOT, RESTORE and RELEASE."""

    def __init__(self, desk: Desk, *, ttl_s: float, trusts_all: bool) -> None:
        self._desk, self._ttl_s, self._trusts_all = desk, ttl_s, trusts_all
        self._tokens: dict[int, Token] = {}
        self._taken: dict[int, Taken] = {}
        self._restoring: dict[int, tuple[Peer, str]] = {}
        self._gone: OrderedDict[str, tuple[Token, server.Moved | None]] = OrderedDict()
        self._moved_s = -TOLD_S
        self._released: queue.SimpleQueue[server.Moved] = queue.SimpleQueue()

    @property
    def ttl_ms(self) -> int:
        """How long a session without a line is kept."""
        return round(self._ttl_s * 1e3)

    def admitted(self, stream: int) -> str:
        """Return the token of a new session."""
        self._tokens[stream] = Token()
        return self._tokens[stream].value

    def forgotten(self, hosted: Hosted, moved: server.Moved | None = None) -> None:
        """Remember how a session has gone, for a client that comes back for it."""
        token = self._tokens.pop(hosted.stream, None)
        self._taken.pop(hosted.stream, None)
        self._restoring.pop(hosted.stream, None)
        if token is not None and (moved or hosted.is_detached):
            self._gone[hosted.session.name] = token, moved
            while len(self._gone) > REMEMBERED:
                self._gone.popitem(last=False)

    def spoken(self, hosted: Hosted) -> None:
        """The client of a session has said something: it has the newest token."""
        if (token := self._tokens.get(hosted.stream)) is not None:
            token.confirm()

    def handle(self, peer: Peer, message: client.Handing, arrays: Mapping[str, Any]) -> None:
        """Take a message about who has a session."""
        match message:
            case client.Resume():
                self._resume(peer, message)
            case client.Restore():
                self._restore(peer, message, arrays.get("snapshot"))
            case client.Snapshot():
                if (hosted := self._allowed(peer, message)) is not None:
                    self.take(hosted, lambda name, data, why: self._give(peer, name, data, why))
            case client.Release():
                if (hosted := self._allowed(peer, message)) is not None:
                    self._release(hosted, message.endpoint, message.resume_token)

    def take(self, hosted: Hosted, taken: Taken) -> None:
        """Let a session stand still, and hand over its bytes once its avatar has stopped."""
        if hosted.session.phase in (Phase.QUEUED, Phase.OPENING) or hosted.is_held:
            taken(hosted.session.name, None, "It is not ready to be moved; try again.")
            return
        now_s = self._desk.clock()
        hosted.hold(now_s, now_s + HELD_S)
        self._taken[hosted.stream] = taken
        self._desk.worker.keep(hosted.stream)

    def kept(self, hosted: Hosted, answer: Kept) -> None:
        """The avatar has put its half of a session into bytes."""
        taken = self._taken.pop(hosted.stream, None)
        if taken is None or not hosted.is_held:
            return
        if answer.data is None:
            self._thaw(hosted)
            taken(hosted.session.name, None, answer.problem)
            return
        taken(hosted.session.name, packed(Moving(hosted.session, hosted.history, answer.data)), "")

    def seen(self, hosted: Hosted) -> bool:
        """Say that a session was restored, if it was."""
        if hosted.stream not in self._restoring:
            return False
        peer, name = self._restoring.pop(hosted.stream)
        token = self._tokens[hosted.stream].value
        log.info("session came from another worker", extra=hosted.told)
        answer = server.RestoreOk(session=name, resume_token=token, resume_ttl_ms=self.ttl_ms)
        self._desk.say(peer, answer)
        return True

    def failed(self, hosted: Hosted, code: Code, text: str) -> None:
        """Tell who brought a session that it cannot live here."""
        if hosted.stream in self._restoring:
            peer, name = self._restoring.pop(hosted.stream)
            self._desk.refuse(peer, code, text, name)

    def released(self, moved: server.Moved) -> None:
        """A session lives elsewhere now. Any thread may call it."""
        self._released.put(moved)

    def watch(self, now_s: float) -> None:
        """Let go of sessions that moved, whose clients stay away, or whose taker does."""
        while not self._released.empty():
            moved = self._released.get()
            hosted = self._desk.named(moved.session)
            if hosted is not None:
                self._release(hosted, moved.endpoint, moved.resume_token)
        for hosted in list(self._desk.hosted.values()):
            if hosted.is_held and now_s > hosted.held_until_s:
                self._thaw(hosted)
            if hosted.is_detached and now_s - hosted.detached_s > self._ttl_s:
                self._desk.fail(hosted, Code.SESSION_EXPIRED, "Its client did not come back.")

    def _resume(self, peer: Peer, message: client.Resume) -> None:
        hosted, name = self._desk.named(message.session), message.session
        token, moved = self._gone.get(name, (None, None))
        if hosted is None and token is not None and token.fits(message.token):
            if moved is not None:
                self._desk.say(peer, moved)
                return
            text = f"The session {name!r} has ended: its client was away for too long."
            self._desk.refuse(peer, Code.SESSION_EXPIRED, text, name)
            return
        own = None if hosted is None else self._tokens.get(hosted.stream)
        if hosted is None or own is None or not own.fits(message.token):
            text = f"There is no session {name!r} with that token; open another."
            self._desk.refuse(peer, Code.RESUME_DENIED, text, name)
            return
        try:
            hosted.resume(peer, message.next_seq, self._desk.clock())
        except LookupError as e:
            self._desk.refuse(peer, Code.RESUME_DENIED, f"Too much was lost: {e}", name)
            return
        own.used(message.token)
        next_seq = hosted.session.next_seq
        answer = server.Resumed(session=name, next_seq=next_seq, resume_token=own.value)
        self._desk.say(peer, answer)
        self._desk.flush(hosted)

    def _restore(self, peer: Peer, message: client.Restore, data: Blob | None) -> None:
        code, text = self._desk.objection(peer, message.session)
        if code is not None:
            self._desk.refuse(peer, code, text, message.session)
            return
        try:
            moving = unpacked(data) if data is not None else None
        except SnapshotError as e:
            self._desk.refuse(peer, Code.RESTORE_DENIED, str(e), message.session)
            return
        if moving is None or moving.session.name != message.session:
            text = "RESTORE needs a buffer of the kind snapshot, of the session it names."
            self._desk.refuse(peer, Code.BAD_MESSAGE, text, message.session)
            return
        hosted = self._desk.place(moving.session, NOBODY)
        hosted.history = moving.history
        hosted.detach(self._desk.clock())
        self._desk.worker.restore(hosted.stream, moving.avatar)
        self._tokens[hosted.stream] = Token()
        self._restoring[hosted.stream] = peer, message.session

    def _thaw(self, hosted: Hosted) -> None:
        """Let a session go on that stood still, with all that has come for it meanwhile."""
        for message, pcm in hosted.thaw(self._desk.clock()):
            if not hosted.is_closed:
                self._desk.converse(hosted, message, pcm)

    def is_quiet(self, now_s: float) -> bool:
        """Whether the clients of all sessions that moved have had time to hear of it."""
        return now_s - self._moved_s > TOLD_S

    def _release(self, hosted: Hosted, endpoint: str, token: str) -> None:
        moved = server.Moved(session=hosted.session.name, endpoint=endpoint, resume_token=token)
        if not hosted.is_detached:
            self._desk.say(hosted.peer, moved)
        log.info("session moves to %s", endpoint, extra=hosted.told)
        self._desk.forget(hosted, moved)
        self._moved_s = self._desk.clock()

    def _give(self, peer: Peer, name: str, data: Blob | None, why: str) -> None:
        if data is None:
            self._desk.refuse(peer, Code.STAGE_FAILED, why, name)
        else:
            self._desk.say(peer, server.SnapshotOk(session=name), snapshot=data)

    def _allowed(self, peer: Peer, message: client.Snapshot | client.Release) -> Hosted | None:
        """Return the session that is asked for, or refuse."""
        hosted, name = self._desk.named(message.session), message.session
        if hosted is None:
            self._desk.refuse(peer, Code.SESSION_UNKNOWN, f"There is no session {name!r}.", name)
            return None
        own = self._tokens.get(hosted.stream)
        if self._trusts_all or (own is not None and own.fits(message.token)):
            return hosted
        text = "Only who has the token of a session may move it from this worker."
        self._desk.refuse(peer, Code.AUTH_DENIED, text, name)
        return None
