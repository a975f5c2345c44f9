"""The two ends of a transport. One thread owns an end; only ``wake`` may be called by others."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

Peer = bytes
"""Names one connection of one client, as long as it lasts."""

Frames = Sequence[Any]
"""The frames of one message: objects with the buffer interface."""


REFUSED = (
    "The two do not agree about keys: one has none (`--key` and `--server-key` give a client's), "
    "the worker does not allow this client's, or the client was given another worker's."
)


class ServerTransport(Protocol):
    """The worker's end: many peers, each a line of messages in order."""

    @property
    def endpoint(self) -> str:
        """Where clients connect to."""
        ...

    @property
    def handshake_failures(self) -> Mapping[str, int]:
        """Connections that were refused, by reason."""
        ...

    def receive(self, timeout_s: float) -> tuple[Peer, Frames] | None:
        """Return the next message and who sent it; None after the timeout or a `wake`."""
        ...

    @property
    def user(self) -> str:
        """The public key with which the last message came; empty without keys."""
        ...

    def send(self, peer: Peer, frames: Frames) -> None:
        """Send without waiting; raises `PeerGoneError` rather than lose a message.

        The frames must not be changed afterwards: they may be sent without a copy.
        """
        ...

    def wake(self) -> None:
        """End the ``receive`` that waits, or the next one. Any thread may call it."""
        ...

    def close(self, linger_s: float = 0.0) -> None:
        """End all connections; what was sent has ``linger_s`` to leave."""
        ...


class ClientTransport(Protocol):
    """A client's end: one line to one worker, which comes back when it was broken."""

    @property
    def line(self) -> int:
        """How often the line has come up; what was sent on an earlier one may be lost."""
        ...

    @property
    def problem(self) -> str:
        """What is known to be wrong with the line; empty if nothing is."""
        ...

    def receive(self, timeout_s: float) -> Frames | None:
        """Return the next message; None after the timeout or a `wake`."""
        ...

    def send(self, frames: Frames) -> None:
        """Send without waiting; raises `PeerGoneError` if there is no connection now."""
        ...

    def wake(self) -> None:
        """End the ``receive`` that waits, or the next one. Any thread may call it."""
        ...

    def close(self, linger_s: float = 0.0) -> None:
        """End the connection; what was sent has ``linger_s`` to leave."""
        ...
