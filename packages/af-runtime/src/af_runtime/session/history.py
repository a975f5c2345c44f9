"""The messages of a session in one direction: numbered, and kept until they are known to be heard.

A line may be lost with messages on it. Both ends keep what they have sent until the other says that
it has come (PING, PONG); after RESUME they go on from the first that has not.
"""

from collections import deque
from collections.abc import Mapping
from typing import Any

import msgspec
from numpy.typing import NDArray

from af_runtime.messages.fields import OfSession
from af_runtime.session.state import Outgoing

MOST_KEPT = 1_000
"""Messages that are kept at most; a line that was lost for longer cannot be taken up again."""

MOST_BYTES = 64 * 2**20
"""Bytes of their buffers at most."""


class History:
    """Numbers messages and keeps the newest. Buffers are kept as they are, not copied."""

    def __init__(self, next_seq: int = 0) -> None:
        self.next_seq = next_seq
        """Number of the message that is added next."""
        self._kept: deque[Outgoing] = deque()
        self._num_bytes = 0

    @property
    def first_seq(self) -> int:
        """Number of the oldest message that is kept, or of the next one."""
        return self.next_seq - len(self._kept)

    def add(self, message: Any, buffers: Mapping[str, NDArray[Any]]) -> Outgoing:
        """Return the message with its number."""
        numbered = msgspec.structs.replace(message, seq=self.next_seq), buffers
        self._keep(numbered)
        return numbered

    def put_back(self, message: OfSession, buffers: Mapping[str, NDArray[Any]]) -> None:
        """Keep a message that was numbered by another worker, the next one."""
        if message.seq != self.next_seq:
            raise ValueError(f"Message {self.next_seq} was due, not {message.seq}.")
        self._keep((message, buffers))

    def heard(self, next_seq: int) -> None:
        """Forget the messages before this one: they have come."""
        while self._kept and self.first_seq < next_seq:
            self._drop()

    def since(self, next_seq: int) -> list[Outgoing]:
        """Return the messages from this one on; raises `LookupError` if they are not all kept."""
        if not self.first_seq <= next_seq <= self.next_seq:
            raise LookupError(
                f"Messages {self.first_seq} to {self.next_seq} are still known, not {next_seq}."
            )
        return list(self._kept)[next_seq - self.first_seq :]

    def _keep(self, one: Outgoing) -> None:
        self._kept.append(one)
        self.next_seq += 1
        self._num_bytes += _size(one)
        while len(self._kept) > MOST_KEPT or self._num_bytes > MOST_BYTES:
            self._drop()

    def _drop(self) -> None:
        self._num_bytes -= _size(self._kept.popleft())


def _size(one: Outgoing) -> int:
    return sum(buffer.nbytes for buffer in one[1].values())
