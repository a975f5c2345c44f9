"""A transport inside one process, for tests and notebooks; bytes are copied as if sent."""

import itertools
import queue
from collections.abc import Mapping
from typing import Any

from af_runtime.errors import PeerGoneError
from af_runtime.transport.base import Frames, Peer


class InprocServer:
    """The worker's end; ``connect`` makes the ends of clients."""

    endpoint = "inproc"
    handshake_failures: Mapping[str, int] = {}
    user = ""

    def __init__(self) -> None:
        self._inbox: queue.Queue[tuple[Peer, Frames] | None] = queue.Queue()
        self._outboxes: dict[Peer, queue.Queue[Frames | None]] = {}
        self._numbers = itertools.count()

    def connect(self) -> "InprocClient":
        """Return a new client's end."""
        peer = str(next(self._numbers)).encode()
        self._outboxes[peer] = queue.Queue()
        return InprocClient(self, peer, self._inbox, self._outboxes[peer])

    def disconnect(self, peer: Peer) -> None:
        """Forget a client."""
        self._outboxes.pop(peer, None)

    def receive(self, timeout_s: float) -> tuple[Peer, Frames] | None:
        """See ``ServerTransport.receive``."""
        return _next(self._inbox, timeout_s)

    def send(self, peer: Peer, frames: Frames) -> None:
        """See ``ServerTransport.send``."""
        if peer not in self._outboxes:
            raise PeerGoneError("The client has gone.")
        self._outboxes[peer].put(_copied(frames))

    def wake(self) -> None:
        """See ``ServerTransport.wake``."""
        self._inbox.put(None)

    def close(self, linger_s: float = 0.0) -> None:
        """See ``ServerTransport.close``."""
        self._outboxes.clear()


class InprocClient:
    """A client's end."""

    problem = ""
    line = 1

    def __init__(
        self,
        server: InprocServer,
        peer: Peer,
        outbox: "queue.Queue[tuple[Peer, Frames] | None]",
        inbox: "queue.Queue[Frames | None]",
    ) -> None:
        self._server, self._peer = server, peer
        self._outbox, self._inbox = outbox, inbox

    def receive(self, timeout_s: float) -> Frames | None:
        """See ``ClientTransport.receive``."""
        return _next(self._inbox, timeout_s)

    def send(self, frames: Frames) -> None:
        """See ``ClientTransport.send``."""
        self._outbox.put((self._peer, _copied(frames)))

    def wake(self) -> None:
        """See ``ClientTransport.wake``."""
        self._inbox.put(None)

    def cut(self) -> None:
        """Lose the line with all that is on its way here, and connect again."""
        self._server.disconnect(self._peer)
        again = self._server.connect()
        self._peer, self._inbox = again._peer, again._inbox
        self.line += 1

    def close(self, linger_s: float = 0.0) -> None:
        """See ``ClientTransport.close``."""
        self._server.disconnect(self._peer)


def _copied(frames: Frames) -> Frames:
    return [bytes(frame) for frame in frames]


def _next(box: "queue.Queue[Any]", timeout_s: float) -> Any:
    try:
        return box.get(timeout=timeout_s) if timeout_s > 0 else box.get_nowait()
    except queue.Empty:
        return None
