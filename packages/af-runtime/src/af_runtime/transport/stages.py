"""The lines between a supervisor and its stage processes: ZeroMQ over a socket in a private folder.

A supervisor is a hub: every stage has one line to it for work, and a second one for its pulse, so
that a stage that computes is heard nevertheless.
"""

import socket
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import attrs
import zmq

from af_runtime.errors import PeerGoneError, UnavailableError
from af_runtime.transport.base import Frames, Peer

HEARTBEAT_MS = 2_000
HEARTBEAT_TIMEOUT_MS = 60_000
"""Long: that a process ends is told at once by other means, and a machine may be slow."""

QUEUE_MESSAGES = 10_000
"""Messages to one stage that may wait; each stream has one on its way at most."""

MESSAGES_A_TURN = 256


@attrs.frozen
class Heard:
    """What has happened since the hub was last asked."""

    messages: tuple[tuple[Peer, Frames], ...] = ()
    readable: tuple[int, ...] = ()
    """Those of the watched files that have something to read."""


class Hub:
    """The supervisor's end. One thread owns it; only `wake` may be called by others."""

    def __init__(self, folder: Path) -> None:
        self.endpoint = f"ipc://{folder / 'hub'}"
        self._context = zmq.Context()
        self._socket = _socket(self._context, zmq.ROUTER)
        self._socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self._socket.setsockopt(zmq.ROUTER_HANDOVER, 1)
        self._here, self._there = socket.socketpair()
        self._here.setblocking(False)
        self._there.setblocking(False)
        self._poller = zmq.Poller()
        self._poller.register(self._socket, zmq.POLLIN)
        self._poller.register(self._here.fileno(), zmq.POLLIN)
        self._watched: set[int] = set()
        try:
            self._socket.bind(self.endpoint)
        except zmq.ZMQError as e:
            self.close()
            raise UnavailableError(f"{self.endpoint} cannot be bound ({e.strerror}).") from e

    def watch(self, handle: int) -> None:
        """Listen also to an open file."""
        self._poller.register(handle, zmq.POLLIN)
        self._watched.add(handle)

    def forget(self, handle: int) -> None:
        """Listen to an open file no more."""
        self._poller.unregister(handle)
        self._watched.remove(handle)

    def wait(self, timeout_s: float) -> Heard:
        """Return what has happened; waits for something to happen if nothing has."""
        events = dict(self._poller.poll(max(0, round(timeout_s * 1e3))))
        if self._here.fileno() in events:
            with suppress(BlockingIOError):
                self._here.recv(4096)
        messages = self._messages() if self._socket in events else []
        return Heard(tuple(messages), tuple(self._watched & events.keys()))

    def send(self, peer: Peer, frames: Frames) -> None:
        """Send without waiting; raises `PeerGoneError` rather than lose a message."""
        try:
            self._socket.send_multipart([peer, *frames], zmq.NOBLOCK, copy=False)
        except zmq.ZMQError as e:
            raise PeerGoneError(f"The stage cannot be reached ({e.strerror}).") from e

    def wake(self) -> None:
        """End the `wait` that waits, or the next one. Any thread may call it."""
        with suppress(OSError):  # full of wakes already, or closed
            self._there.send(b"\0")

    def close(self) -> None:
        """End all lines."""
        self._here.close()
        self._there.close()
        self._socket.close(linger=0)
        self._context.term()

    def _messages(self) -> list[tuple[Peer, Frames]]:
        found: list[tuple[Peer, Frames]] = []
        with suppress(zmq.Again):
            while len(found) < MESSAGES_A_TURN:
                peer, *frames = self._socket.recv_multipart(zmq.NOBLOCK, copy=False)
                found.append((peer.bytes, [frame.buffer for frame in frames]))
        return found


class Line:
    """A stage's end. Its work belongs to one thread; the pulse has a thread of its own."""

    def __init__(self, endpoint: str, name: bytes) -> None:
        self._context = zmq.Context()
        self._endpoint, self._name = endpoint, name
        self._socket = self._connected(name)

    def receive(self) -> Frames:
        """Return the next message; waits for it."""
        return [frame.buffer for frame in self._socket.recv_multipart(copy=False)]

    @property
    def is_waiting(self) -> bool:
        """Whether a message is there."""
        return bool(self._socket.poll(0))

    def send(self, frames: Sequence[Any]) -> None:
        """Send a message; its frames must not change any more."""
        self._socket.send_multipart(list(frames), copy=False)

    def pulse(self, beat: Any, every_s: float) -> None:
        """Send what ``beat()`` returns again and again, on a thread that ends with the process."""

        def run() -> None:
            line, pause = self._connected(self._name + b".pulse"), threading.Event()
            while True:
                line.send_multipart(beat())
                pause.wait(every_s)

        threading.Thread(target=run, name="af-pulse", daemon=True).start()

    def _connected(self, name: bytes) -> "zmq.Socket[Any]":
        made = _socket(self._context, zmq.DEALER)
        made.setsockopt(zmq.IDENTITY, name)
        made.connect(self._endpoint)
        return made


def _socket(context: "zmq.Context[Any]", kind: int) -> "zmq.Socket[Any]":
    made: zmq.Socket[Any] = context.socket(kind)
    made.setsockopt(zmq.LINGER, 0)
    made.setsockopt(zmq.SNDHWM, QUEUE_MESSAGES)
    made.setsockopt(zmq.RCVHWM, QUEUE_MESSAGES)
    made.setsockopt(zmq.HEARTBEAT_IVL, HEARTBEAT_MS)
    made.setsockopt(zmq.HEARTBEAT_TIMEOUT, HEARTBEAT_TIMEOUT_MS)
    return made
