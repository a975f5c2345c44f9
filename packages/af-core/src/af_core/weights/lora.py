"""Low-rank adapters, merged into the weights they adapt: W' = W + scale * B A."""

from collections.abc import Mapping

import torch
from torch import Tensor

from af_core.errors import WeightsError

_BASE = ".base_layer."
_A = ".lora_A."
_B = ".lora_B."


def merge_lora(tensors: Mapping[str, Tensor], alpha: float) -> dict[str, Tensor]:
    """Return the tensors with every peft adapter merged in float32 and its names gone.

    The scale is ``alpha / rank``, the rank being read from each adapter. Tensors without an
    adapter pass through untouched.
    """
    adapters = _adapters(tensors)
    merged = {}
    for name, tensor in tensors.items():
        if _A in name or _B in name:
            continue
        plain = name.replace(_BASE, ".")
        module, _, kind = plain.rpartition(".")
        if kind == "weight" and module in adapters:
            tensor = _merge(plain, tensor, *adapters.pop(module), alpha)
        merged[plain] = tensor
    if adapters:
        raise WeightsError(
            "Adapters without a weight to adapt: " + ", ".join(sorted(adapters)) + "."
        )
    return merged


def _adapters(tensors: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    downs = {name.split(_A)[0]: tensor for name, tensor in tensors.items() if _A in name}
    ups = {name.split(_B)[0]: tensor for name, tensor in tensors.items() if _B in name}
    if lone := downs.keys() ^ ups.keys():
        raise WeightsError("Half an adapter (A or B missing): " + ", ".join(sorted(lone)) + ".")
    return {module: (downs[module], ups[module]) for module in downs}


def _merge(name: str, weight: Tensor, down: Tensor, up: Tensor, alpha: float) -> Tensor:
    if (up.shape[0], down.shape[1]) != tuple(weight.shape) or up.shape[1] != down.shape[0]:
        raise WeightsError(
            f"The adapter of {name} {list(weight.shape)} is {list(up.shape)} x "
            f"{list(down.shape)}, which does not multiply to it."
        )
    scale = alpha / down.shape[0]
    with torch.no_grad():
        return (weight.float() + scale * (up.float() @ down.float())).to(weight.dtype)
