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

from af_runtime.client.stream import StreamCore
from af_runtime.errors import ConnectionLostError, PeerGoneError, ProtocolError, ServiceError
from af_runtime.messages import from_client as client
from af_runtime.messages import from_server as server
from af_runtime.messages.codec import VERSION, decode_from_server, encode
from af_runtime.messages.codes import Code
from af_runtime.messages.fields import Message
from af_runtime.transport.base import ClientTransport

log = logging.getLogger(__name__)

PING_S = 1.0
SILENCE_S = 3.0
"""A worker that is silent for as long is lost; its sessions fail."""

TURN_S = 0.2
RETRY_S = 0.02
"""How long to wait before what could not be sent is tried again."""

LINGER_S = 0.5


class Link:
    """One line to a worker. It looks for the worker again when the line was cut."""

    def __init__(
        self, transport: ClientTransport, endpoint: str, features: tuple[str, ...] = ()
    ) -> None:
        self.endpoint, self._features = endpoint, features
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
        """Take no more messages for a session."""
        with self.lock:
            self._streams.pop(stream.name, None)

    def post(self, message: Message, **arrays: Any) -> None:
        """Send a message as soon as there is a line; messages keep their order."""
        with self.lock:
            self._outbox.append(encode(message, **arrays))
        self._transport.wake()

    def ping(self) -> None:
        """Ask for a sign of life."""
        self.post(client.Ping(nonce=time.monotonic_ns() % 2**53))

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
        return ConnectionLostError(
            "connection.lost",
            f"No stream worker answers at {self.endpoint}. "
            + (self._transport.problem or "Is `af-runtime serve` running there?"),
            retryable=True,
        )

    def close(self) -> None:
        """End the connection; what was posted still leaves."""
        self._is_closing = True
        self._transport.wake()
        self._thread.join()

    def _greet(self) -> None:
        agent = f"af-runtime/{version('af-runtime')}"
        hello = client.Hello(
            min_version=VERSION, max_version=VERSION, features=self._features, agent=agent
        )
        self.post(hello)

    def _run(self) -> None:
        until = None
        while until is None or (self._outbox and time.monotonic() < until):
            received = self._transport.receive(RETRY_S if self._outbox else TURN_S)
            now = time.monotonic()
            if received is not None:
                self._heard_s = now
                self._take(received, now)
            self._send_all()
            self._beat(now)
            if self._is_closing and until is None:
                until = now + LINGER_S
        self._transport.close(LINGER_S)

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
        if now - self._heard_s > SILENCE_S:
            with self.lock:
                for stream in self._streams.values():
                    stream.fail(self.lost())
            self._heard_s = now
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
            case server.Error(session="", code=Code.VERSION):
                self.error = ServiceError(message.code, message.message)
                self._fail_all(self.error)
            case server.Error(session=""):
                log.warning("the worker refused a message: %s", message.message)
            case server.Draining():
                pass  # the sessions will hear of their end
            case _:
                self._hand_over(message, packet.arrays)
        self._tell()

    def _hand_over(self, message: Any, arrays: Any) -> None:
        with self.lock:
            stream = self._streams.get(message.session)
        if stream is None:
            return
        stream.receive(message, arrays)
        if stream.is_closed:
            self.forget(stream)

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
