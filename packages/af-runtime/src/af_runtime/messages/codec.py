"""Messages to frames and back: magic, header, buffers. Whatever comes in, a typed error comes out.

A message is ``[b"AFW1"][header][buffer 0]...``; the header is MessagePack. A decoder ignores
fields it does not know, so that fields can be added.
"""

from collections.abc import Sequence
from typing import Any, Generic, TypeVar

import attrs
import msgspec
import numpy as np
from numpy.typing import NDArray

from af_runtime.errors import ProtocolError
from af_runtime.messages import from_client, from_server
from af_runtime.messages.buffers import Buffer, described, view
from af_runtime.messages.codes import Code
from af_runtime.messages.fields import Message, OfSession
from af_runtime.messages.from_client import FromClient
from af_runtime.messages.from_server import FromServer

MAGIC = b"AFW1"
"""The first frame: the protocol's name and the version of this framing."""

VERSION = 1
"""The version of the messages that this code speaks."""

MAX_HEADER_BYTES = 16_384

MAX_FRAMES = 4
"""Frames of a message at most: magic, header, two buffers."""

Frame = bytes | memoryview
MessageT = TypeVar("MessageT")

KINDS: dict[type, frozenset[str]] = {
    from_client.Open: frozenset({"portrait"}),
    from_client.Audio: frozenset({"pcm"}),
    from_client.Restore: frozenset({"snapshot"}),
    from_server.Media: frozenset({"video", "audio"}),
    from_server.SnapshotOk: frozenset({"snapshot"}),
}
"""Which buffers a message may carry; all others carry none."""


@attrs.frozen(eq=False)
class Packet(Generic[MessageT]):
    """A message and its buffers."""

    message: MessageT
    arrays: dict[str, NDArray[Any]]
    """Read-only views of the buffers by kind; a view keeps the whole message in memory."""


def encode(message: Message, **arrays: NDArray[Any]) -> list[Any]:
    """Return the frames of a message; buffers are given by kind and are not copied."""
    if arrays:
        kinds: dict[Any, NDArray[Any]] = dict(arrays)
        specs = tuple(described(kind, array) for kind, array in kinds.items())
        message = msgspec.structs.replace(message, buffers=specs)
    flat = [
        np.ascontiguousarray(array).reshape(-1).view(np.uint8).data for array in arrays.values()
    ]
    return [MAGIC, msgspec.msgpack.encode(message), *flat]


class _Codec(Generic[MessageT]):
    """Decodes the messages of one direction."""

    def __init__(self, union: Any) -> None:
        self._decode = msgspec.msgpack.Decoder(union).decode
        self._types = {str(one.__struct_config__.tag) for one in union.__args__}

    def __call__(self, frames: Sequence[Frame]) -> Packet[MessageT]:
        """Return the message in these frames, or raise `ProtocolError`."""
        message = self._header(_header_frame(frames))
        try:
            return _with_buffers(message, frames[2:])
        except ProtocolError as e:
            e.session = message.session if isinstance(message, OfSession) else None
            raise

    def _header(self, data: Frame) -> Any:
        try:
            return self._decode(data)
        except (msgspec.MsgspecError, RecursionError, UnicodeError, OverflowError) as e:
            kind = _type_of(data)
            if kind is not None and kind not in self._types:
                known = ", ".join(sorted(self._types))
                raise ProtocolError(
                    Code.UNKNOWN_TYPE, f"There is no message {kind[:64]!r} here; known: {known}."
                ) from e
            raise ProtocolError(Code.BAD_MESSAGE, f"The header cannot be read: {e}.") from e


def _with_buffers(message: Any, data: Sequence[Frame]) -> Packet[Any]:
    specs = message.buffers
    if len(data) != len(specs):
        raise ProtocolError(
            Code.BAD_MESSAGE,
            f"The header announces {len(specs)} buffers, but {len(data)} came.",
        )
    _require_expected(message, specs)
    views = (view(spec, frame) for spec, frame in zip(specs, data, strict=True))
    return Packet(message, {s.kind: a for s, a in zip(specs, views, strict=True)})


class _Type(msgspec.Struct):
    type: str


def _type_of(data: Frame) -> str | None:
    """Return the type that a header claims to be, if it can be read."""
    try:
        return msgspec.msgpack.decode(data, type=_Type).type
    except (msgspec.MsgspecError, RecursionError, UnicodeError, OverflowError):
        return None


def _header_frame(frames: Sequence[Frame]) -> Frame:
    magic = bytes(frames[0][:16]) if frames else b""
    if magic != MAGIC:
        is_other_version = magic[:3] == MAGIC[:3] and len(magic) == len(MAGIC)
        code = Code.VERSION if is_other_version else Code.BAD_MAGIC
        raise ProtocolError(code, f"A message begins with {MAGIC!r}; this one with {magic!r}.")
    if len(frames) > MAX_FRAMES:
        text = f"A message has at most {MAX_FRAMES} frames; this one has more."
        raise ProtocolError(Code.TOO_LARGE, text)
    if len(frames) < 2:
        raise ProtocolError(Code.BAD_MESSAGE, "The message has no header.")
    if len(frames[1]) > MAX_HEADER_BYTES:
        raise ProtocolError(
            Code.TOO_LARGE, f"The header has {len(frames[1])} bytes; limit {MAX_HEADER_BYTES}."
        )
    return frames[1]


def _require_expected(message: Message, specs: Sequence[Buffer]) -> None:
    """Refuse buffers that this message does not carry, and two of one kind."""
    kinds = [spec.kind for spec in specs]
    allowed = KINDS.get(type(message), frozenset())
    if not allowed.issuperset(kinds) or len(set(kinds)) != len(kinds):
        raise ProtocolError(
            Code.BAD_MESSAGE,
            f"{type(message).__name__} carries {sorted(allowed) or 'no buffers'}, not {kinds}.",
        )


decode_from_client: _Codec[FromClient] = _Codec(FromClient)
"""Returns the message of a client as a `Packet`; raises `ProtocolError`."""

decode_from_server: _Codec[FromServer] = _Codec(FromServer)
"""Returns the message of a worker as a `Packet`; raises `ProtocolError`."""
