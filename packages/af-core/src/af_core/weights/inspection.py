"""Tells what is inside a weights file: family, sizes, types, adapters; no tensor is read."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import msgspec
from torch import Tensor

from af_core.errors import WeightsError
from af_core.weights.avatarforcing import infer_sizes, separated
from af_core.weights.checkpoints import read_entries
from af_core.weights.families import identify, shapes_of
from af_core.weights.files import read_metadata
from af_core.weights.signature import Kind, kind_of


class EntryReport(msgspec.Struct, frozen=True):
    """One state dict of a file."""

    entry: str
    """Its name in the file; empty if the file is one state dict itself."""
    family: str
    """Short name of what it looks like."""
    title: str
    """The same in words."""
    licence: str
    """What publishers of this family say, as far as is known; the file itself says nothing."""
    num_tensors: int
    num_parameters: int
    """Weights, adapters apart."""
    num_adapters: int
    """Weights that low-rank adapters are to be merged into."""
    adapter_rank: int | None
    adapter_parameters: int
    dtypes: dict[str, int]
    """Parameters of each type, by torch's name."""
    sizes: dict[str, int | None]
    """Of a Wan network, the options of the denoiser that its shapes tell."""


class FileReport(msgspec.Struct, frozen=True):
    """Everything ``af-runtime weights inspect`` shows; ``--json`` prints exactly this."""

    path: str
    kind: Kind
    num_bytes: int
    metadata: dict[str, str]
    """Text in the header of a safetensors file."""
    entries: list[EntryReport]


def inspect(path: Path | str) -> FileReport:
    """Return what is in a file; ``WeightsError`` if it is no checkpoint."""
    path = Path(path)
    kind = kind_of(path)
    return FileReport(
        path=str(path),
        kind=kind,
        num_bytes=path.stat().st_size,
        metadata=read_metadata(path) if kind == "safetensors" else {},
        entries=[describe(name, tensors) for name, tensors in read_entries(path).items()],
    )


def describe(entry: str, tensors: Mapping[str, Tensor]) -> EntryReport:
    """Return what one state dict is."""
    family = identify(shapes_of(tensors))
    adapters = {name: tensor for name, tensor in tensors.items() if ".lora_" in name}
    dtypes: Counter[str] = Counter()
    for tensor in tensors.values():
        dtypes[str(tensor.dtype).removeprefix("torch.")] += tensor.numel()
    ranks = {tensor.shape[0] for name, tensor in adapters.items() if ".lora_A" in name}
    in_adapters = sum(tensor.numel() for tensor in adapters.values())
    return EntryReport(
        entry=entry,
        family=family.name,
        title=family.title,
        licence=family.licence,
        num_tensors=len(tensors),
        num_parameters=sum(dtypes.values()) - in_adapters,
        num_adapters=len(adapters) // 2,
        adapter_rank=ranks.pop() if len(ranks) == 1 else None,
        adapter_parameters=in_adapters,
        dtypes=dict(dtypes),
        sizes=_sizes(tensors),
    )


def _sizes(tensors: Mapping[str, Tensor]) -> dict[str, int | None]:
    try:
        return infer_sizes(separated(tensors, "this file").weights)
    except WeightsError:
        return {}
