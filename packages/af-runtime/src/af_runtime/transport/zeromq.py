"""The transport between processes and machines: ROUTER and DEALER sockets of ZeroMQ.

ZeroMQ drops what it cannot deliver unless it is told otherwise: the router is mandatory (a message
to nobody, or past the high-water mark, is an error), a client that comes back takes its name over,
and heartbeats find dead lines. A handshake that fails is silent too: a monitor hears it.
"""

import errno
import socket
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import zmq
from af_core.errors import AvatarForcingError
from zmq.utils.monitor import parse_monitor_message

from af_runtime.errors import (
    BusyError,
    PeerGoneError,
    PeerSlowError,
    RequestError,
    UnavailableError,
)
from af_runtime.transport.base import REFUSED, Frames, Peer
from af_runtime.transport.curve import ClientKeys, Guard, ServerKeys
from af_runtime.transport.endpoints import private

MAX_MESSAGE_BYTES = 64 * 2**20
"""Larger frames end the connection before they are read."""

QUEUE_MESSAGES = 1_000
"""Messages to one peer that may wait for the network; credits keep far below it."""

MOST_FRAMES = 8
"""Frames of one message that are kept; a message of this protocol has fewer."""

HANDSHAKE_FAILED = (
    zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
)

REASONS: Mapping[int, str] = {
    zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL: "no_detail",
    zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL: "protocol",
    zmq.EVENT_HANDSHAKE_FAILED_AUTH: "auth",
}

HEARTBEAT_MS = 1_000
HEARTBEAT_TIMEOUT_MS = 3_000


class ZmqServer:
    """The worker's end, bound to an endpoint such as ``tcp://127.0.0.1:5700``."""

    def __init__(self, endpoint: str, keys: ServerKeys | None = None) -> None:
        self._context = zmq.Context()
        self._guard = None if keys is None else Guard(self._context, keys)
        self.user = ""
        self._socket = _socket(self._context, zmq.ROUTER)
        self._socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self._socket.setsockopt(zmq.ROUTER_HANDOVER, 1)
        if keys is not None:
            keys.protect(self._socket)
        self._waker = _Waker(self._socket)
        try:
            with private(endpoint):
                self._socket.bind(endpoint)
        except AvatarForcingError:
            self.close()
            raise
        except zmq.ZMQError as e:
            self.close()
            raise _bind_error(endpoint, e) from e
        self.endpoint = self._socket.getsockopt_string(zmq.LAST_ENDPOINT)

    def receive(self, timeout_s: float) -> tuple[Peer, Frames] | None:
        """See ``ServerTransport.receive``."""
        if not self._waker.wait(timeout_s):
            return None
        with suppress(zmq.Again):
            peer, *frames = _received(self._socket, 1 + MOST_FRAMES)
            self.user = _user_of(frames)
            return peer.bytes, [frame.buffer for frame in frames]
        return None

    def send(self, peer: Peer, frames: Frames) -> None:
        """See ``ServerTransport.send``."""
        try:
            self._socket.send_multipart([peer, *frames], zmq.NOBLOCK, copy=False)
        except zmq.Again as e:
            raise PeerSlowError("The client does not read the frames that it asked for.") from e
        except zmq.ZMQError as e:
            raise PeerGoneError(f"The client has gone ({e.strerror}).") from e

    def wake(self) -> None:
        """See ``ServerTransport.wake``."""
        self._waker.wake()

    @property
    def handshake_failures(self) -> Mapping[str, int]:
        """Connections that were refused: no key, or one that is not allowed."""
        return self._waker.handshake_failures

    def close(self, linger_s: float = 0.0) -> None:
        """See ``ServerTransport.close``."""
        if self._guard is not None:
            self._guard.close()
        _close(self._context, self._socket, self._waker, linger_s)


class ZmqClient:
    """A client's end. It connects in the background, and again whenever the line was cut."""

    def __init__(self, endpoint: str, keys: ClientKeys | None = None) -> None:
        self._context = zmq.Context()
        self._socket = _socket(self._context, zmq.DEALER)
        if keys is not None:
            keys.protect(self._socket)
        self._socket.setsockopt(zmq.IMMEDIATE, 1)  # what is sent goes to a line that is up
        self._socket.setsockopt(zmq.RECONNECT_IVL, 100)
        self._socket.setsockopt(zmq.RECONNECT_IVL_MAX, 32_000)
        self._waker = _Waker(self._socket)
        try:
            self._socket.connect(endpoint)
        except zmq.ZMQError as e:
            self.close()
            raise RequestError(f"{endpoint} is no endpoint; one is tcp://127.0.0.1:5700.") from e

    def receive(self, timeout_s: float) -> Frames | None:
        """See ``ClientTransport.receive``."""
        if not self._waker.wait(timeout_s):
            return None
        with suppress(zmq.Again):
            return [frame.buffer for frame in _received(self._socket, MOST_FRAMES)]
        return None

    def send(self, frames: Frames) -> None:
        """See ``ClientTransport.send``."""
        try:
            self._socket.send_multipart(list(frames), zmq.NOBLOCK, copy=False)
        except zmq.Again as e:
            raise PeerGoneError("There is no connection to the worker.") from e

    @property
    def line(self) -> int:
        """See ``ClientTransport.line``."""
        return self._waker.handshakes

    @property
    def problem(self) -> str:
        """See ``ClientTransport.problem``."""
        return REFUSED if self._waker.handshake_failures else ""

    def wake(self) -> None:
        """See ``ClientTransport.wake``."""
        self._waker.wake()

    def close(self, linger_s: float = 0.0) -> None:
        """See ``ClientTransport.close``."""
        _close(self._context, self._socket, self._waker, linger_s)


class _Waker:
    """Waits for a socket, for a byte that any thread may send, and for handshakes that fail."""

    def __init__(self, of: "zmq.Socket[Any]") -> None:
        self._of = of
        self.handshake_failures: Counter[str] = Counter()
        self.handshakes = 0
        self._monitor = of.get_monitor_socket(HANDSHAKE_FAILED | zmq.EVENT_HANDSHAKE_SUCCEEDED)
        self._here, self._there = socket.socketpair()
        self._here.setblocking(False)
        self._there.setblocking(False)
        self._poller = zmq.Poller()
        self._poller.register(of, zmq.POLLIN)
        self._poller.register(self._here.fileno(), zmq.POLLIN)
        self._poller.register(self._monitor, zmq.POLLIN)

    def wait(self, timeout_s: float) -> bool:
        """Return whether a message is there."""
        events = dict(self._poller.poll(max(0, round(timeout_s * 1e3))))
        if self._here.fileno() in events:
            with suppress(BlockingIOError):
                self._here.recv(4096)
        if self._monitor in events:
            event = parse_monitor_message(self._monitor.recv_multipart())["event"]
            if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                self.handshakes += 1
            else:
                self.handshake_failures[REASONS[event]] += 1
        return self._of in events

    def wake(self) -> None:
        with suppress(OSError):  # full of wakes already, or closed
            self._there.send(b"\0")

    def close(self) -> None:
        self._of.disable_monitor()
        self._monitor.close(linger=0)
        self._here.close()
        self._there.close()


def _received(of: "zmq.Socket[Any]", most: int) -> list[zmq.Frame]:
    """Return the frames of the next message; those beyond the first ``most`` are thrown away."""
    frames: list[zmq.Frame] = []
    while True:
        frame = of.recv(zmq.NOBLOCK, copy=False)
        if len(frames) < most:
            frames.append(frame)
        if not frame.more:
            return frames


def _user_of(frames: Sequence[zmq.Frame]) -> str:
    """Return the key that the guard has let in; empty where there is no guard."""
    try:
        return str(frames[0].get("User-Id")) if frames else ""
    except zmq.ZMQError:
        return ""


def library() -> tuple[str, bool]:
    """Return the version of libzmq, and whether it can encrypt."""
    return zmq.zmq_version(), zmq.has("curve")


def _socket(context: "zmq.Context[Any]", kind: int) -> "zmq.Socket[Any]":
    made: zmq.Socket[Any] = context.socket(kind)
    made.setsockopt(zmq.LINGER, 0)
    made.setsockopt(zmq.SNDHWM, QUEUE_MESSAGES)
    made.setsockopt(zmq.RCVHWM, QUEUE_MESSAGES)
    made.setsockopt(zmq.MAXMSGSIZE, MAX_MESSAGE_BYTES)
    made.setsockopt(zmq.HEARTBEAT_IVL, HEARTBEAT_MS)
    made.setsockopt(zmq.HEARTBEAT_TIMEOUT, HEARTBEAT_TIMEOUT_MS)
    made.setsockopt(zmq.HEARTBEAT_TTL, HEARTBEAT_TIMEOUT_MS)
    made.setsockopt(zmq.TCP_KEEPALIVE, 1)
    return made


def _close(
    context: "zmq.Context[Any]", of: "zmq.Socket[Any]", waker: _Waker, linger_s: float
) -> None:
    waker.close()
    of.close(linger=round(linger_s * 1e3))
    context.term()


def _bind_error(endpoint: str, error: zmq.ZMQError) -> RequestError | UnavailableError:
    if error.errno == zmq.EADDRINUSE:
        return BusyError(f"{endpoint} is in use; choose another port, or port * for a free one.")
    if error.errno in (zmq.EADDRNOTAVAIL, errno.ENODEV):
        return UnavailableError(f"{endpoint} cannot be bound: this machine has no such address.")
    return RequestError(
        f"{endpoint!r} is no endpoint to bind ({error.strerror}); one is tcp://127.0.0.1:5700."
    )
