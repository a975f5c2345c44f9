"""What a supervisor and its stages say to each other. The two are one program: no versions here.

A message is a header in MessagePack and the tensors it describes, as raw bytes. Pixels may lie in
shared memory instead; then the header says where.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import torch
from torch import Tensor

from af_runtime.stages.ring import SharedBytes


class Field(msgspec.Struct, frozen=True, array_like=True):
    """Describes one tensor."""

    name: str
    dtype: str
    """By torch's name."""
    shape: tuple[int, ...]
    offset: int = -1
    """Where it lies in shared memory; -1 if its bytes follow the header."""


class _Message(msgspec.Struct, frozen=True, kw_only=True, tag_field="t"):
    """What all messages have."""

    call: int = 0
    """Number of a request, and of the answer to it."""
    fields: tuple[Field, ...] = ()


class Assign(_Message, frozen=True, kw_only=True, tag="assign"):
    """Be this process of the placement from now on. `Ready` answers."""

    process: str


class Encode(_Message, frozen=True, kw_only=True, tag="encode"):
    """Encode portraits ``image``. `Done` answers with ``latent``."""


class Prompt(_Message, frozen=True, kw_only=True, tag="prompt"):
    """Tell the embedding of the prompt. `Done` answers with ``text``, or with nothing."""


class Weights(_Message, frozen=True, kw_only=True, tag="weights"):
    """Tell the hash of the weights of this part. `Done` answers."""


class Open(_Message, frozen=True, kw_only=True, tag="open"):
    """Begin a batch of streams from ``portrait``, ``image`` and ``text``.

    `Done` answers, with a snapshot.
    """

    stream: int
    leg: int
    seeds: tuple[int, ...]


class Work(_Message, frozen=True, kw_only=True, tag="work"):
    """Let a batch of streams take values named ``node.port``, or give what it owes.

    With a snapshot, the stage first goes to the moment that it is of. `Done` answers.
    """

    stream: int
    leg: int
    is_last: bool = False
    is_interruption: bool = False
    """Whether the leg's denoiser is to forget what has not come out of it."""
    has_snapshot: bool = False
    """Whether the last frame is a snapshot; ``text`` may come with it."""
    wants_snapshot: bool = False
    """Whether the answer shall bring one."""
    offset: int = -1
    """Where in shared memory there is room for pixels of the answer."""
    room: int = 0
    """How many bytes of it."""


class Forget(_Message, frozen=True, kw_only=True, tag="forget"):
    """A batch of streams is over; nothing answers."""

    stream: int


class Started(_Message, frozen=True, kw_only=True, tag="started"):
    """A process has begun, and can be told what to be."""

    plugins: tuple[str, ...]
    """Names and versions of what it has loaded."""
    pipeline: str
    """Fingerprint of the pipeline it has read."""


class Ready(_Message, frozen=True, kw_only=True, tag="ready"):
    """A process has built its part; a spare has built them all."""

    process: str
    """Empty for a spare."""
    num_parameters: int = 0


class Done(_Message, frozen=True, kw_only=True, tag="done"):
    """Answers a request."""

    has_snapshot: bool = False
    """Whether the last frame is a snapshot of the streams afterwards."""
    no_snapshot: str = ""
    """Why there cannot be one, if one was wanted."""
    snapshot_s: float = 0.0
    """CPU time that it took to make."""
    seconds: float = 0.0
    """How long the work took."""
    told: str = ""
    """The answer of `Weights`."""
    num_emitted: int = 0
    """After an interruption: blocks that have come out of the denoiser."""


class Failed(_Message, frozen=True, kw_only=True, tag="failed"):
    """A request has failed, or the process cannot begin (call 0)."""

    kind: str
    """``input``, ``memory``, ``config`` or ``fault``."""
    message: str


class Beat(_Message, frozen=True, kw_only=True, tag="beat"):
    """A sign of life: how much was done so far, and how long the present work has taken."""

    done: int
    busy_s: float


Request = Assign | Encode | Prompt | Weights | Open | Work | Forget
Answer = Started | Ready | Done | Failed | Beat

_requests = msgspec.msgpack.Decoder(Request)
_answers = msgspec.msgpack.Decoder(Answer)


def encode(
    message: Any,
    tensors: Mapping[str, Tensor] | None = None,
    shared: SharedBytes | None = None,
    *,
    room: tuple[int, int] = (-1, 0),
    snapshot: Any = None,
) -> list[Any]:
    """Return the frames of a message.

    What lies in ``shared`` already is named, not sent; bytes that fit into the ``room`` (offset and
    size) are written there; all else follows the header, not copied if it can be helped.
    """
    fields: list[Field] = []
    buffers: list[Any] = []
    at, end = room[0], room[0] + room[1]
    for name, tensor in (tensors or {}).items():
        offset = shared.offset_of(tensor) if shared is not None else None
        is_pixels = tensor.dtype == torch.uint8 and tensor.numel() > 0
        if offset is None and shared is not None and is_pixels and at + tensor.nbytes <= end:
            shared.tensor(at, tuple(tensor.shape)).copy_(tensor)
            offset, at = at, at + tensor.nbytes
        if offset is None:
            buffers.append(_bytes(tensor))
        dtype = str(tensor.dtype).removeprefix("torch.")
        fields.append(Field(name, dtype, tuple(tensor.shape), -1 if offset is None else offset))
    header = msgspec.structs.replace(message, fields=tuple(fields))
    last = [] if snapshot is None else [snapshot]
    return [msgspec.msgpack.encode(header), *buffers, *last]


def request(frames: Sequence[Any]) -> Request:
    """Return the header of a request."""
    return _requests.decode(frames[0])


def answer(frames: Sequence[Any]) -> Answer:
    """Return the header of an answer."""
    return _answers.decode(frames[0])


def tensors(message: Any, frames: Sequence[Any], shared: SharedBytes | None) -> dict[str, Tensor]:
    """Return the tensors of a message by name; what lies in ``shared`` is not copied.

    Without ``shared``, what lies there is left out.
    """
    found: dict[str, Tensor] = {}
    buffers = iter(frames[1:])
    for field in message.fields:
        if field.offset >= 0 and shared is None:
            continue  # whoever knows what else is in there looks at it
        if field.offset >= 0 and shared is not None:
            found[field.name] = shared.tensor(field.offset, field.shape)
            continue
        data = bytearray(next(buffers))  # small; and torch wants memory that it may write to
        flat = torch.frombuffer(data, dtype=getattr(torch, field.dtype)) if data else None
        empty = torch.empty(field.shape, dtype=getattr(torch, field.dtype))
        found[field.name] = empty if flat is None else flat.reshape(field.shape)
    return found


def snapshot(message: Work | Done, frames: Sequence[Any]) -> Any:
    """Return the snapshot that a message brings, as bytes; None if it brings none."""
    return frames[-1] if message.has_snapshot else None


def numbered(message: Any, call: int) -> Any:
    """Return a request with its number."""
    return msgspec.structs.replace(message, call=call)


def _bytes(tensor: Tensor) -> Any:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data
