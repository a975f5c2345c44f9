"""Any checkpoint to one safetensors file: adapters merged, wrappers gone, its origin kept."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

import msgspec
import torch
from torch import Tensor

from af_core.errors import WeightsError
from af_core.weights.avatarforcing import FAMILIES, LORA_ALPHA, separated
from af_core.weights.checkpoints import choose, read_entries
from af_core.weights.diffusers_wan import to_diffusers
from af_core.weights.digest import sha256_of
from af_core.weights.families import identify, shapes_of
from af_core.weights.files import write_tensors
from af_core.weights.lora import Adapted, separate_lora
from af_core.weights.names import plain_names
from af_core.weights.report import empty_as

Naming = Literal["native", "diffusers"]
OnProgress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and how much there is."""


class Exported(msgspec.Struct, frozen=True):
    """What was written; the header of the file says the same, but for ``path``."""

    path: str
    family: str
    naming: str
    """Whose names the tensors have: ``native``, ``diffusers`` or, of other families, ``source``."""
    dtype: str
    """Type of the tensors by torch's name, or ``mixed``."""
    num_tensors: int
    num_parameters: int
    num_merged: int
    """Adapters that went into weights."""
    lora_alpha: float
    """Strength with which they went in."""
    source: str
    """Name of the file it was made of."""
    source_sha256: str
    source_entry: str
    """State dict that was taken of several."""


def export(
    source: Path | str,
    path: Path | str,
    *,
    entry: str | None = None,
    dtype: torch.dtype | None = None,
    alpha: float = LORA_ALPHA,
    naming: Naming = "native",
    on_progress: OnProgress | None = None,
) -> Exported:
    """Write one state dict of a checkpoint as a safetensors file that names its origin.

    Adapters are merged in float32 with the scale ``alpha / rank``; floating-point tensors are cast
    to ``dtype`` (None: as they are). Wan networks in diffusers' names get native ones, or
    ``naming`` says otherwise; other families keep their names. Besides the file's own size, memory
    is needed for what is merged or cast. ``path`` appears whole or not at all.
    """
    tell = on_progress or (lambda doing, done, total: None)
    source, entries = Path(source), read_entries(source)
    tensors = choose(entries, entry, str(source))
    family = identify(shapes_of(tensors)).name
    _require_naming(naming, family)
    apart = _separated(tensors, str(source), family, alpha)
    size = source.stat().st_size
    digest = sha256_of(source, lambda done: tell("reading", done, size))
    own = _merged(apart, dtype, tell)
    made = Exported(
        path=str(path),
        family=family,
        naming=naming if family in FAMILIES else "source",
        dtype=_dtype(own),
        num_tensors=len(own),
        num_parameters=sum(tensor.numel() for tensor in own.values()),
        num_merged=len(apart.adapters),
        lora_alpha=alpha,
        source=source.name,
        source_sha256=digest,
        source_entry=next(name for name, value in entries.items() if value is tensors),
    )
    tell("writing", 0, 1)
    write_tensors(path, to_diffusers(own) if naming == "diffusers" else own, _header(made))
    tell("writing", 1, 1)
    return made


def _require_naming(naming: Naming, family: str) -> None:
    if naming == "diffusers" and family not in ("wan", "wan_diffusers"):
        raise WeightsError(
            f"diffusers has no class for this file ({family}): its Wan transformer has neither "
            "audio layers nor a reference. Write native names."
        )


def _separated(tensors: Mapping[str, Tensor], source: str, family: str, alpha: float) -> Adapted:
    if family in FAMILIES:
        return separated(tensors, source, alpha)
    return separate_lora(plain_names(tensors) if _has_adapters(tensors) else tensors, alpha)


def _merged(apart: Adapted, dtype: torch.dtype | None, tell: OnProgress) -> dict[str, Tensor]:
    own = {}
    for number, (name, tensor) in enumerate(apart.weights.items(), 1):
        own[name] = tensor
        if name in apart.adapters or dtype not in (None, tensor.dtype):
            own[name] = empty_as(tensor, dtype=dtype)
            apart.merge_into(name, tensor, own[name])
        tell("merging", number, len(apart.weights))
    return own


def _has_adapters(tensors: Mapping[str, Tensor]) -> bool:
    return any(".lora_" in name for name in tensors)


def _header(made: Exported) -> dict[str, str]:
    return {k: str(v) for k, v in msgspec.structs.asdict(made).items() if k != "path"}


def _dtype(tensors: Mapping[str, Tensor]) -> str:
    kinds = {str(t.dtype).removeprefix("torch.") for t in tensors.values()}
    return kinds.pop() if len(kinds) == 1 else "mixed"
