"""Names of Wan networks: those of its authors, which are ours, and those of diffusers."""

from collections.abc import Mapping
from typing import TypeVar

ValueT = TypeVar("ValueT")

_OUTSIDE = {
    "head.head": "proj_out",
    "head.modulation": "scale_shift_table",
    "time_embedding.0": "condition_embedder.time_embedder.linear_1",
    "time_embedding.2": "condition_embedder.time_embedder.linear_2",
    "time_projection.1": "condition_embedder.time_proj",
    "text_embedding.0": "condition_embedder.text_embedder.linear_1",
    "text_embedding.2": "condition_embedder.text_embedder.linear_2",
}
"""Modules and parameters outside the layers: native name, name in diffusers."""

_ATTENTION = {"self_attn": "attn1", "cross_attn": "attn2"}
_PROJECTIONS = {"q": "to_q", "k": "to_k", "v": "to_v", "o": "to_out.0"}
_NORMS = {"norm_q": "norm_q", "norm_k": "norm_k"}

_INSIDE = {
    **{
        f"{ours}.{part}": f"{theirs}.{name}"
        for ours, theirs in _ATTENTION.items()
        for part, name in (_PROJECTIONS | _NORMS).items()
    },
    "modulation": "scale_shift_table",
    "norm3": "norm2",
    "ffn.0": "ffn.net.0.proj",
    "ffn.2": "ffn.net.2",
}
"""The same of a layer. The norm before the text attention is the third to Wan's authors."""


def to_native(tensors: Mapping[str, ValueT]) -> dict[str, ValueT]:
    """Return the tensors of diffusers' ``WanTransformer3DModel`` under native names.

    Values do not change. A name that is not one of diffusers stays, so that a strict load tells.
    """
    outside, inside = _swapped(_OUTSIDE), _swapped(_INSIDE)
    return {_renamed(name, outside, inside): tensor for name, tensor in tensors.items()}


def to_diffusers(tensors: Mapping[str, ValueT]) -> dict[str, ValueT]:
    """Return the tensors of a merged native network under the names of diffusers."""
    return {_renamed(name, _OUTSIDE, _INSIDE): tensor for name, tensor in tensors.items()}


def _renamed(name: str, outside: Mapping[str, str], inside: Mapping[str, str]) -> str:
    if not name.startswith("blocks."):
        return _within(name, outside)
    blocks, layer, rest = name.split(".", 2)
    return f"{blocks}.{layer}.{_within(rest, inside)}"


def _within(name: str, names: Mapping[str, str]) -> str:
    """Return the new name of a parameter that is listed itself, or whose module is."""
    module, _, kind = name.rpartition(".")
    if name in names:
        return names[name]
    return f"{names[module]}.{kind}" if module in names else name


def _swapped(names: Mapping[str, str]) -> dict[str, str]:
    return {theirs: ours for ours, theirs in names.items()}
