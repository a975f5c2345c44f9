"""A session as bytes, for another worker: what it is, and what its avatar remembers.

Nothing is unpickled: both halves are snapshots (``af_core.snapshots``), messages travel as they do
on the wire. What comes in is checked by the worker that takes it, whoever sent it.
"""

from typing import Any

import attrs
import msgspec
import numpy as np
from af_core.errors import SnapshotError
from af_core.snapshots.value import Snapshot
from numpy.typing import NDArray

from af_runtime.errors import ProtocolError
from af_runtime.messages.codec import decode_from_server, encode
from af_runtime.session.history import History
from af_runtime.session.state import Phase, Session

MAGIC = b"AFSESS1"
PACKAGES = frozenset({"af_runtime"})


@attrs.frozen(eq=False)
class Moving:
    """A session between two workers."""

    session: Session
    history: History
    """What its client may not have received."""
    avatar: bytes
    """The snapshot of its streams."""


class _Wire(msgspec.Struct, frozen=True, array_like=True):
    magic: bytes
    avatar: bytes
    session: bytes


def packed(moving: Moving) -> NDArray[np.uint8]:
    """Return the bytes of a session, uint8 [n]."""
    kept = moving.history.since(moving.history.first_seq)
    value = {
        "session": moving.session,
        "first_seq": moving.history.first_seq,
        "messages": [_frames(message, buffers) for message, buffers in kept],
    }
    header = Snapshot.from_bytes(moving.avatar).header
    session = Snapshot.of(header, {"session": value}, PACKAGES, "cpu").to_bytes()
    return np.frombuffer(
        msgspec.msgpack.encode(_Wire(MAGIC, moving.avatar, session)), dtype=np.uint8
    )


def unpacked(data: NDArray[np.uint8]) -> Moving:
    """Return the session of such bytes; raises `SnapshotError` for any others."""
    try:
        wire = msgspec.msgpack.decode(data.data, type=_Wire)
        if wire.magic != MAGIC:
            raise SnapshotError(f"A session begins with {MAGIC!r}; this begins with another word.")
        kept = Snapshot.from_bytes(wire.session).values(["session"], PACKAGES, "cpu")["session"]
        return Moving(_checked(kept["session"]), _history(kept), wire.avatar)
    except (msgspec.MsgspecError, ProtocolError, TypeError, ValueError, LookupError) as e:
        raise SnapshotError(f"These {len(data)} bytes are no session: {e}") from e


def _checked(session: Any) -> Session:
    alive = (Phase.ACTIVE, Phase.DRAINING)
    if not isinstance(session, Session) or session.phase not in alive:
        raise SnapshotError("These bytes hold no session that is alive.")
    return session


def _frames(message: Any, buffers: Any) -> list[bytes]:
    return [bytes(frame) for frame in encode(message, **buffers)]


def _history(kept: Any) -> History:
    history = History(int(kept["first_seq"]))
    for frames in kept["messages"]:
        packet = decode_from_server(frames)
        message: Any = msgspec.structs.replace(packet.message, buffers=())
        history.put_back(message, packet.arrays)
    return history
