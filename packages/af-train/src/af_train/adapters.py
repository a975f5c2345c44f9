"""Adapters (LoRA, arXiv 2106.09685) by peft: put in before weights are sharded, merged for use.

W' = W + alpha / rank B A. B begins as zeros, so a network with a fresh adapter is the network.
"""

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

import msgspec
import torch
from af_core.errors import AvatarForcingError, ConfigError
from torch import Tensor

_BASE, _A, _B = ".base_layer.", ".lora_A.default.weight", ".lora_B.default.weight"


class MissingPeftError(AvatarForcingError):
    """Adapters are asked for, and peft is not installed."""


class AdapterConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which layers get an adapter, and what else is trained; the published values."""

    rank: int = 128
    alpha: float = 64.0
    targets: tuple[str, ...] = ("q", "k", "v", "o", "ffn.0", "ffn.2")
    """Ends of the names of linear layers."""
    fully: tuple[str, ...] = ("patch_embedding", "audio_proj", "audio_cond_projs")
    """Beginnings of the names of parameters that are trained themselves: what Wan did not have."""

    def __post_init__(self) -> None:
        """Refuse what adapts nothing."""
        if self.rank < 1 or self.alpha <= 0 or not self.targets:
            raise ConfigError(
                f"An adapter needs rank={self.rank} of 1 or more, alpha={self.alpha:g} above 0 and "
                f"targets={list(self.targets)}."
            )


def adapt(network: Any, config: AdapterConfig, seed: int = 0) -> Any:
    """Put adapters into a network, in place, and freeze all else; the same in all processes.

    Raises ``MissingPeftError`` without peft, ``ConfigError`` if no layer has such a name.
    """
    if find_spec("peft") is None:
        raise MissingPeftError(
            "Adapters need peft, which is not installed here: pip install 'af-train[lora]'. "
            "Or train whole networks: --set STAGE.trainer.roles.ROLE.adapter=null"
        )
    from peft import LoraConfig, inject_adapter_in_model

    network.requires_grad_(False)
    alpha: Any = config.alpha  # peft says int; any number will do
    options = LoraConfig(r=config.rank, lora_alpha=alpha, target_modules=list(config.targets))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            inject_adapter_in_model(options, network)
        except ValueError as error:
            raise ConfigError(f"targets={list(config.targets)}: {error}") from error
    for name, parameter in network.named_parameters():
        if name.startswith(config.fully):
            parameter.requires_grad_(True)
    return network


def merged(state: Mapping[str, Tensor], config: AdapterConfig) -> dict[str, Tensor]:
    """Return an adapted state dict as the network without adapters has it; sums in float32."""
    plain = {
        name.replace(_BASE, "."): value for name, value in state.items() if "lora_" not in name
    }
    for name, down in state.items():
        if name.endswith(_A):
            layer = name.removesuffix(_A)
            weight, up = plain[f"{layer}.weight"], state[layer + _B]
            change = (config.alpha / config.rank) * (up.float() @ down.float())
            plain[f"{layer}.weight"] = (weight.float() + change).to(weight.dtype)
    return plain


def trained(state: Mapping[str, Tensor], config: AdapterConfig) -> dict[str, Tensor]:
    """Return what was trained of an adapted state dict: a small file, to go with the base."""
    return {
        name: value
        for name, value in state.items()
        if "lora_" in name or name.startswith(config.fully)
    }
