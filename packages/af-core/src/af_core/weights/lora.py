"""Low-rank adapters, merged into the weights they adapt: W' = W + scale * B A."""

from collections.abc import Mapping

import attrs
import torch
from torch import Tensor

from af_core.errors import WeightsError

_BASE = ".base_layer."
_A = ".lora_A."
_B = ".lora_B."


@attrs.frozen(eq=False)
class Adapted:
    """Weights, and apart from them the peft adapters that belong to some of them."""

    weights: Mapping[str, Tensor]
    """Every weight by the name it has once merged; its shape is final, its values are not."""
    adapters: Mapping[str, tuple[Tensor, Tensor]]
    """A ``[rank, in]`` and B ``[out, rank]`` by the name of the weight they adapt."""
    alpha: float
    """Strength: the scale is ``alpha / rank``, the rank being that of each adapter."""

    def merge(self, name: str, weight: Tensor) -> Tensor:
        """Return a weight with its adapter added, in float32; one without an adapter as it is."""
        if name not in self.adapters:
            return weight
        down, up = self.adapters[name]
        scale = self.alpha / down.shape[0]
        with torch.no_grad():
            return torch.addmm(weight.float(), up.float(), down.float(), alpha=scale)


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
    return {name: apart.merge(name, w).to(w.dtype) for name, w in apart.weights.items()}


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
