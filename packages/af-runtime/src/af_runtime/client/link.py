"""The connection of a client: a thread that owns the transport, and the sessions that use it."""

import contextlib
import logging
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

from af_core.errors import AvatarForcingError

from af_runtime.client.stream import StreamCore
from af_runtime.errors import (
    ConnectionLostError,
    PeerGoneError,
    ProtocolError,
    RequestError,
    ServiceError,
)
from af_runtime.messages import from_client as client
from af_runtime.messages import from_server as server
from af_runtime.messages.codec import VERSION, decode_from_server, encode
from af_runtime.messages.codes import Code
from af_runtime.messages.fields import QUEUE, Message
from af_runtime.transport.base import ClientTransport

log = logging.getLogger(__name__)

PING_S = 1.0
SILENCE_S = 3.0
"""A worker that is silent for as long is lost; its sessions fail."""

TURN_S = 0.2
RETRY_S = 0.02
"""How long to wait before what could not be sent is tried again."""

LINGER_S = 0.5

REFUSAL_S = 1.0
"""A line whose handshakes fail for as long is refused: keys do not agree by waiting."""


class Link:
    """One line to a worker. It looks for the worker again when the line was cut."""

    def __init__(
        self,
        transport: ClientTransport,
        endpoint: str,
        dial: Callable[[str], ClientTransport] | None = None,
        features: tuple[str, ...] = (),
    ) -> None:
        """Begin; ``dial`` connects to other workers, to which sessions may move.

        ``features`` are asked for besides those that any client here understands.
        """
        self.endpoint, self._dial, self._features = endpoint, dial, features
        self._line, self._others = 0, dict[str, Link]()
        self._asked: dict[str, list[Any]] = {}
        self.lock = threading.RLock()
        self._changed = threading.Condition(self.lock)
        self._listeners: list[Callable[[], None]] = []
        self._transport = transport
        self._outbox: deque[list[Any]] = deque()
        self._streams: dict[str, StreamCore] = {}
        self._heard_s = self._pinged_s = time.monotonic()
        self._is_closing = False
        self.hello: server.HelloOk | None = None
        self.error: ServiceError | None = None
        self._refused_since_s: float | None = None
        self.round_trip_s: float | None = None
        """Seconds from the last PING to its PONG."""
        self._greet()
        self._thread = threading.Thread(target=self._run, name="af-client", daemon=True)
        self._thread.start()

    def stream(self, *, window: int) -> StreamCore:
        """Return the client's side of a new session."""
        stream = StreamCore(secrets.token_urlsafe(12), self.post, self.lock, window=window)
        with self.lock:
            self._streams[stream.name] = stream
        return stream

    def forget(self, stream: StreamCore) -> None:
        """Take no more messages for a session; whoever waits for one waits no longer."""
        with self.lock:
            self._streams.pop(stream.name, None)
            others = list(self._others.values())
            stream.is_closed = True
        for other in others:
            other.forget(stream)
        self._tell()

    def adopt(self, stream: StreamCore) -> None:
        """Take a session over that was moved to this worker."""
        with self.lock:
            self._streams[stream.name] = stream
        stream.resume()

    def ask(self, message: Any, timeout_s: float, **arrays: Any) -> Any:
        """Send a message about a session, and return the answer as a `Packet`.

        Raises `ServiceError` if it is refused, `ConnectionLostError` if no answer comes.
        """
        with self.lock:
            answers = self._asked[message.session] = []
        self.post(message, **arrays)
        try:
            if not self.wait_for(lambda: bool(answers or self.error), timeout_s):
                raise self.lost()
        finally:
            self._asked.pop(message.session, None)
        if not answers:
            raise self.error or self.lost()
        if isinstance(answers[0].message, server.Error):
            refused = answers[0].message
            raise ServiceError(refused.code, refused.message, retryable=refused.retryable)
        return answers[0]

    def post(self, message: Message, **arrays: Any) -> None:
        """Send a message as soon as there is a line; messages keep their order."""
        with self.lock:
            self._outbox.append(encode(message, **arrays))
        self._transport.wake()

    def ping(self) -> None:
        """Ask for a sign of life, and tell what has come."""
        with self.lock:
            heard = {one.name: one.next_heard for one in self._streams.values() if one.token}
        self.post(client.Ping(nonce=time.monotonic_ns() % 2**53, heard=heard))

    def listen(self, listener: Callable[[], None]) -> None:
        """Call this whenever something has come, on the connection's thread."""
        with self.lock:
            self._listeners.append(listener)

    def wait_for(self, is_so: Callable[[], bool], timeout_s: float | None = None) -> bool:
        """Wait until something is so; return whether it is."""
        with self._changed:
            return self._changed.wait_for(is_so, timeout_s)

    def lost(self) -> ConnectionLostError:
        """Return the error of a worker that does not answer."""
        if self._transport.problem:
            text = f"The worker at {self.endpoint} takes no messages. {self._transport.problem}"
        else:
            text = f"No stream worker answers at {self.endpoint}. "
            text += "Is `af-runtime serve` running there?"
        return ConnectionLostError("connection.lost", text, retryable=True)

    def close(self) -> None:
        """End the connection and the sessions on it; what was posted still leaves."""
        with self.lock:
            others = list(self._others.values())
            for stream in self._streams.values():
                stream.close("abort")
        for other in others:
            other.close()
        self._is_closing = True
        self._transport.wake()
        self._thread.join()

    def _greet(self) -> None:
        hello = client.Hello(
            min_version=VERSION,
            max_version=VERSION,
            features=("resume", "move", QUEUE, *self._features),
            agent=f"af-runtime/{version('af-runtime')}",
        )
        self.post(hello)

    def _run(self) -> None:
        until = None
        while until is None or (self._outbox and time.monotonic() < until):
            received = self._transport.receive(RETRY_S if self._outbox else TURN_S)
            now = time.monotonic()
            if self._transport.line != self._line:
                self._connected()
            if received is not None:
                self._heard_s = now
                self._take(received, now)
            self._send_all()
            self._beat(now)
            self._notice_refusal(now)
            if self._is_closing and until is None:
                until = now + LINGER_S
        self._transport.close(LINGER_S)

    def _connected(self) -> None:
        """The line is up; if it was up before, take the sessions up again."""
        was_up, self._line = self._line > 0, self._transport.line
        if not was_up:
            return
        with self.lock:
            self._outbox.clear()  # what belongs to sessions is kept by them
            self._greet()
            for stream in list(self._streams.values()):
                if stream.token:
                    stream.resume()
                else:
                    stream.fail(self.lost())
        self._tell()

    def _send_all(self) -> None:
        with contextlib.suppress(PeerGoneError):
            while self._outbox:
                self._transport.send(self._outbox[0])
                self._outbox.popleft()

    def _beat(self, now: float) -> None:
        """Give a sign of life, and notice when the worker gives none."""
        if now - self._pinged_s >= PING_S and not self._outbox:
            self._pinged_s = now
            self.ping()
        silent_s = now - self._heard_s
        if silent_s > SILENCE_S:
            with self.lock:
                lost = [s for s in self._streams.values() if silent_s > s.patience_s]
                for stream in lost:
                    stream.fail(self.lost())
                    self._streams.pop(stream.name)
            if lost:
                self._tell()

    def _notice_refusal(self, now: float) -> None:
        """Say soon that the worker refuses the line, rather than wait for an answer."""
        if self.hello is not None or not self._transport.problem:
            self._refused_since_s = None
            return
        since = self._refused_since_s = self._refused_since_s or now
        if self.error is None and now - since >= REFUSAL_S:
            self.error = self.lost()
            self._tell()

    def _take(self, frames: Any, now: float) -> None:
        try:
            packet = decode_from_server(frames)
        except ProtocolError as e:
            self._fail_all(ServiceError(e.code, f"The worker's message cannot be read: {e}"))
            return
        message = packet.message
        match message:
            case server.HelloOk():
                self.hello = message
            case server.Pong():
                self.round_trip_s = (time.monotonic_ns() % 2**53 - message.nonce) / 1e9
                for name, next_seq in message.heard.items():
                    if (stream := self._streams.get(name)) is not None:
                        stream.confirmed(next_seq)
            case server.Error(session="", code=Code.VERSION):
                self.error = ServiceError(message.code, message.message)
                self._fail_all(self.error)
            case server.Error(session=""):
                log.warning("the worker refused a message: %s", message.message)
            case server.Draining():
                pass  # the sessions will hear of their end
            case server.SnapshotOk() | server.RestoreOk():
                self._answer(packet)
            case server.Moved():
                self._follow(message)
            case server.Error() if message.session in self._asked:
                self._answer(packet)
            case _:
                self._hand_over(message, packet.arrays)
        self._tell()

    def _hand_over(self, message: Any, arrays: Any) -> None:
        with self.lock:
            stream = self._streams.get(message.session)
        if stream is None:
            return
        stream.receive(message, arrays)
        if stream.needs_resume:
            stream.resume()
        if stream.is_closed:
            self.forget(stream)

    def _answer(self, packet: Any) -> None:
        answers = self._asked.get(packet.message.session)
        if answers is not None:
            answers.append(packet)

    def _follow(self, moved: server.Moved) -> None:
        """Go after a session that was moved to another worker."""
        with self.lock:
            stream = self._streams.pop(moved.session, None)
        if stream is None:
            return
        try:
            link = self._to(moved.endpoint)
        except AvatarForcingError as e:
            text = f"The session was moved to {moved.endpoint}, which cannot be reached: {e}"
            stream.fail(ConnectionLostError("connection.lost", text, retryable=True))
            return
        stream.moved(link.post, moved.resume_token)
        link.adopt(stream)

    def _to(self, endpoint: str) -> "Link":
        if endpoint == self.endpoint:
            return self
        if endpoint not in self._others:
            if self._dial is None:
                raise RequestError("this connection knows no way to other workers")
            other = Link(self._dial(endpoint), endpoint, self._dial, self._features)
            other.listen(self._tell)
            self._others[endpoint] = other
        return self._others[endpoint]

    def _fail_all(self, error: ServiceError) -> None:
        with self.lock:
            for stream in self._streams.values():
                stream.fail(error)
        self._tell()

    def _tell(self) -> None:
        with self._changed:
            self._changed.notify_all()
            listeners = list(self._listeners)
        for listener in listeners:
            listener()
