"""Low-rank adapters, merged into the weights they adapt: W' = W + scale * B A."""

from collections.abc import Mapping

import attrs
import torch
from torch import Tensor

from af_core.errors import WeightsError

_BASE = ".base_layer."
_A = ".lora_A."
_B = ".lora_B."
_NUMBERS_AT_ONCE = 1 << 18


@attrs.frozen(eq=False)
class Adapted:
    """Weights, and apart from them the peft adapters that belong to some of them."""

    weights: Mapping[str, Tensor]
    """Every weight by the name it has once merged; its shape is final, its values are not."""
    adapters: Mapping[str, tuple[Tensor, Tensor]]
    """A ``[rank, in]`` and B ``[out, rank]`` by the name of the weight they adapt."""
    alpha: float
    """Strength: the scale is ``alpha / rank``, the rank being that of each adapter."""

    @torch.no_grad()
    def merge_into(self, name: str, weight: Tensor, out: Tensor) -> None:
        """Write a weight into ``out``, its adapter added in float32 before it is cast.

        Rows are done a few at a time: what that takes is smaller than what stays, so that memory
        which is given back is used again and does not lie in gaps between the weights.
        """
        if name not in self.adapters:
            out.copy_(weight)
            return
        down, up = (part.float() for part in self.adapters[name])
        scale, step = self.alpha / down.shape[0], max(_NUMBERS_AT_ONCE // weight.shape[1], 1)
        for first in range(0, len(weight), step):
            rows = slice(first, first + step)
            out[rows].copy_(torch.addmm(weight[rows].float(), up[rows], down, alpha=scale))

    def merge(self, name: str, weight: Tensor) -> Tensor:
        """Return a weight with its adapter added, in the type of the weight."""
        out = torch.empty_like(weight)
        self.merge_into(name, weight, out)
        return out


def separate_lora(tensors: Mapping[str, Tensor], alpha: float) -> Adapted:
    """Tell adapters from weights; nothing is computed. Raise ``WeightsError`` on what is half."""
    pairs = _pairs(tensors)
    weights = {
        name.replace(_BASE, "."): tensor
        for name, tensor in tensors.items()
        if _A not in name and _B not in name
    }
    adapters = {f"{module}.weight": pair for module, pair in pairs.items()}
    if alone := adapters.keys() - weights.keys():
        shown = sorted(name.removesuffix(".weight") for name in alone)
        raise WeightsError(
            f"{len(shown)} adapters without a weight to adapt: {_some(shown)}. Adapters alone are "
            "no network; merge them into the checkpoint they were trained on first."
        )
    for name, (down, up) in adapters.items():
        _require_product(name, weights[name], down, up)
    return Adapted(weights, adapters, alpha)


def merge_lora(tensors: Mapping[str, Tensor], alpha: float) -> dict[str, Tensor]:
    """Return the tensors with every adapter merged in float32, in their own types."""
    apart = separate_lora(tensors, alpha)
    return {name: apart.merge(name, weight) for name, weight in apart.weights.items()}


def _pairs(tensors: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    downs = {name.split(_A)[0]: tensor for name, tensor in tensors.items() if _A in name}
    ups = {name.split(_B)[0]: tensor for name, tensor in tensors.items() if _B in name}
    if lone := downs.keys() ^ ups.keys():
        raise WeightsError(f"Half an adapter (A or B missing): {_some(sorted(lone))}.")
    return {module: (downs[module], ups[module]) for module in downs}


def _require_product(name: str, weight: Tensor, down: Tensor, up: Tensor) -> None:
    if (up.shape[0], down.shape[1]) != tuple(weight.shape) or up.shape[1] != down.shape[0]:
        raise WeightsError(
            f"The adapter of {name} {list(weight.shape)} is {list(up.shape)} x "
            f"{list(down.shape)}, which does not multiply to it."
        )


def _some(names: list[str]) -> str:
    rest = f" and {len(names) - 6} more" if len(names) > 6 else ""
    return ", ".join(names[:6]) + rest
