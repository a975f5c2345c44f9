"""A stream as it was at one moment, as a value with a form for wires and files: MessagePack."""

from collections.abc import Collection, Iterable, Mapping
from typing import Annotated, Any

import attrs
import msgspec
import torch
from msgspec import Meta
from torch import Tensor

from af_core.errors import SnapshotError, SnapshotMismatchError
from af_core.snapshots.trees import Packer, Tree, Unpacker

FORMAT = 1
"""The version of this form. Another one is refused."""

MAGIC = b"AFSNAP"

MAX_AXES = 16


class SnapshotHeader(msgspec.Struct, frozen=True, kw_only=True):
    """What a snapshot is of, and where its streams stand."""

    format: int = FORMAT
    """Version of this form."""
    preset: str
    """Name of the pipeline."""
    configuration: str
    """Hash of all options that change what is drawn."""
    weights: str
    """Hash of the weights of all stages."""
    num_streams: int
    """Streams of the batch."""
    num_samples: int
    """Samples of speech heard."""
    num_frames: int
    """Frames handed out."""
    is_finished: bool
    """Whether the streams were flushed."""

    def require(self, preset: str, configuration: str, weights: str) -> None:
        """Raise `SnapshotMismatchError` with every difference from an avatar."""
        here = {
            "format": FORMAT,
            "preset": preset,
            "configuration": configuration,
            "weights": weights,
        }
        differ = [
            f"{name}: {_short(getattr(self, name))} in the snapshot, {_short(value)} here"
            for name, value in here.items()
            if getattr(self, name) != value
        ]
        if differ:
            raise SnapshotMismatchError(
                "This snapshot is of another avatar; it goes on only where all is the same. "
                + "; ".join(differ)
                + ". Restore it with the same version, pipeline and weights."
            )


class PackedTensor(msgspec.Struct, frozen=True, array_like=True):
    """One tensor: its numbers in the order in which they lay in memory."""

    dtype: str
    shape: Annotated[tuple[Annotated[int, Meta(ge=0, le=2**40)], ...], Meta(max_length=MAX_AXES)]
    order: Annotated[tuple[int, ...], Meta(max_length=MAX_AXES)]
    """Axes from the slowest to the fastest: kernels may round differently in another order."""
    on_device: bool
    """Whether it lay on the avatar's device; else on the CPU."""
    data: memoryview


class _Wire(msgspec.Struct, frozen=True, array_like=True):
    magic: bytes
    header: SnapshotHeader
    nodes: dict[str, Any]
    tensors: list[PackedTensor]


class _First(msgspec.Struct, frozen=True, array_like=True):
    magic: bytes
    header: Any


@attrs.frozen(eq=False)
class StoredTensor:
    """A copy of a tensor, on the CPU and dense, and whether it lay on the avatar's device."""

    values: Tensor
    """Contiguous, axes permuted by ``order``."""
    order: tuple[int, ...]
    on_device: bool


@attrs.frozen(eq=False)
class Snapshot:
    """All that the streams of a batch remember, independent of them. Made by `Avatar.snapshot`."""

    header: SnapshotHeader
    nodes: dict[str, Tree]
    """What each node remembers, taken apart."""
    tensors: tuple[StoredTensor, ...]

    @property
    def num_bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(one.values.numel() * one.values.element_size() for one in self.tensors)

    @classmethod
    def of(
        cls,
        header: SnapshotHeader,
        saved: Mapping[str, Any],
        packages: Collection[str],
        device: str,
    ) -> "Snapshot":
        """Copy what the nodes of an avatar on this device have saved."""
        packer = Packer(packages)
        nodes = {name: packer.pack(value, name) for name, value in saved.items()}
        return cls(header, nodes, tuple(store(tensor, device) for tensor in packer.tensors))

    def values(
        self, nodes: Iterable[str], packages: Collection[str], device: str
    ) -> dict[str, Any]:
        """Return what each of these nodes has saved, copied to where it lay."""
        if set(nodes) != set(self.nodes):
            raise SnapshotMismatchError(
                f"nodes: {', '.join(self.nodes)} in the snapshot, {', '.join(nodes)} here."
            )
        unpacker = Unpacker([recall(one, device) for one in self.tensors], packages)
        return {name: unpacker.unpack(self.nodes[name]) for name in nodes}

    def to_bytes(self) -> bytes:
        """Return the form for wires and files."""
        packed = [_packed(one) for one in self.tensors]
        return msgspec.msgpack.encode(_Wire(MAGIC, self.header, self.nodes, packed))

    @classmethod
    def from_bytes(cls, data: bytes | bytearray | memoryview) -> "Snapshot":
        """Read it; raises `SnapshotError` for what is no snapshot, or one of another version.

        Nothing is unpickled and no class is made: that is for `Avatar.restore`. The tensors are
        views of ``data``, which must not be changed before then.
        """
        try:
            _require_format(msgspec.msgpack.decode(data, type=_First, strict=True))
            wire = msgspec.msgpack.decode(data, type=_Wire)
        except (msgspec.MsgspecError, RecursionError, UnicodeError, OverflowError) as e:
            raise SnapshotError(f"These {len(data)} bytes are no snapshot: {e}.") from e
        return cls(wire.header, wire.nodes, tuple(_stored(one) for one in wire.tensors))


def store(tensor: Tensor, device: str) -> StoredTensor:
    """Copy a tensor."""
    if tensor.dtype not in _DTYPES.values() or tensor.layout is not torch.strided:
        raise SnapshotError(
            f"{tensor.dtype} tensors ({tensor.layout}) cannot be put into a snapshot; these can: "
            f"{', '.join(_DTYPES)}, dense."
        )
    order = tuple(sorted(range(tensor.dim()), key=lambda axis: (-tensor.stride(axis), axis)))
    dense = tensor.permute(order).to("cpu", copy=True).contiguous()
    return StoredTensor(dense, order, tensor.device.type == torch.device(device).type)


def recall(stored: StoredTensor, device: str) -> Tensor:
    """Return a copy of the tensor as it was, its axes in memory in the same order."""
    back = sorted(range(len(stored.order)), key=stored.order.__getitem__)
    return stored.values.to(device if stored.on_device else "cpu", copy=True).permute(back)


def _require_format(first: _First) -> None:
    number = first.header.get("format") if isinstance(first.header, dict) else None
    if first.magic != MAGIC:
        raise SnapshotError(f"A snapshot begins with {MAGIC!r}; this begins with another word.")
    if number != FORMAT:
        raise SnapshotMismatchError(
            f"format: {_short(number)} in the snapshot, {FORMAT} here. Restore it with the version "
            "that made it."
        )


def _packed(stored: StoredTensor) -> PackedTensor:
    values, name = stored.values, str(stored.values.dtype).removeprefix("torch.")
    data = values.reshape(-1).view(torch.uint8).numpy().data if values.numel() else memoryview(b"")
    return PackedTensor(name, tuple(values.shape), stored.order, stored.on_device, data)


def _stored(packed: PackedTensor) -> StoredTensor:
    dtype = _DTYPES.get(packed.dtype)
    if dtype is None or sorted(packed.order) != list(range(len(packed.shape))):
        raise SnapshotError(f"No tensor is {packed.dtype} {packed.shape} {packed.order}.")
    size = dtype.itemsize
    for length in packed.shape:
        size *= length
    if len(packed.data) != size:
        raise SnapshotError(
            f"A tensor {packed.dtype} {list(packed.shape)} has {size} bytes, "
            f"but {len(packed.data)} came."
        )
    flat = _from_buffer(packed.data, dtype) if size else torch.empty(0, dtype=dtype)
    return StoredTensor(flat.view(packed.shape), packed.order, packed.on_device)


def _from_buffer(data: memoryview, dtype: torch.dtype) -> Tensor:
    """Return a tensor of these bytes; a copy, since a message need not be aligned."""
    return torch.frombuffer(bytearray(data), dtype=dtype)


_DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        *(torch.float64, torch.float32, torch.float16, torch.bfloat16),
        *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
    )
}


def _short(value: object) -> str:
    text = str(value)
    return repr(text if len(text) <= 24 else text[:12] + "...") if text else "none"
