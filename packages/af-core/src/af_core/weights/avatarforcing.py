"""The AvatarForcing checkpoint family: its names, its adapters, and the shape read from it."""

from collections.abc import Mapping

from torch import Tensor, nn

from af_core.errors import WeightsError
from af_core.geometry import TEMPORAL_STRIDE
from af_core.models.causal_wan import CausalWan
from af_core.models.wan_config import CausalWanConfig
from af_core.weights.lora import merge_lora
from af_core.weights.report import fill

WRAPPERS = ("_fsdp_wrapped_module.", "_checkpoint_wrapped_module.", "_orig_mod.", "module.")
"""Name parts that training wrappers leave behind, anywhere in a name."""
PREFIX = "model."
"""First part of every name in the published files."""
LORA_RANK = 128
LORA_ALPHA = 64.0
"""The published adapters: scale alpha / rank = 0.5."""


def plain_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors under the network's own names, wrappers and prefix stripped."""
    named: dict[str, Tensor] = {}
    twice = []
    for name, tensor in tensors.items():
        plain = _strip(name)
        if plain in named:
            twice.append(name)
        named[plain] = tensor
    if twice:
        raise WeightsError(
            "Several tensors have the same name once wrappers are stripped: "
            + ", ".join(sorted(twice))
            + "."
        )
    return named


def _strip(name: str) -> str:
    parts = f".{name}"
    for wrapper in WRAPPERS:
        parts = parts.replace(f".{wrapper}", ".")
    while parts.startswith(f".{PREFIX}"):
        parts = parts[len(PREFIX) :]
    return parts[1:]


def to_causal_wan(tensors: Mapping[str, Tensor], alpha: float = LORA_ALPHA) -> dict[str, Tensor]:
    """Return a published state dict as ``CausalWan`` takes it: plain names, adapters merged."""
    return merge_lora(plain_names(tensors), alpha)


def load_causal_wan(
    model: nn.Module, tensors: Mapping[str, Tensor], source: str, alpha: float = LORA_ALPHA
) -> None:
    """Fill a network from a published state dict, strictly."""
    fill(model, to_causal_wan(tensors, alpha), source)


def infer_config(tensors: Mapping[str, Tensor], num_heads: int, text_len: int) -> CausalWanConfig:
    """Read the shape of a network from its merged tensors; heads and text rows are not in them."""
    try:
        patch = tensors["patch_embedding.weight"]
        head = tensors["head.head.weight"]
        return CausalWanConfig(
            dim=patch.shape[0],
            ffn_dim=tensors["blocks.0.ffn.0.weight"].shape[0],
            num_layers=1 + max(int(n.split(".")[1]) for n in tensors if n.startswith("blocks.")),
            num_heads=num_heads,
            freq_dim=tensors["time_embedding.0.weight"].shape[1],
            patch=patch.shape[-1],
            in_channels=patch.shape[1],
            out_channels=head.shape[0] // patch.shape[-1] ** 2,
            text_dim=tensors["text_embedding.0.weight"].shape[1],
            text_len=text_len,
            audio_dim=tensors["audio_proj.proj.weight"].shape[1] // TEMPORAL_STRIDE,
            audio_hidden=tensors["audio_proj.proj.weight"].shape[0],
        )
    except KeyError as missing:
        raise WeightsError(f"The weights have no tensor named {missing}.") from missing


def build_causal_wan(
    tensors: Mapping[str, Tensor],
    *,
    num_heads: int,
    text_len: int,
    source: str,
    alpha: float = LORA_ALPHA,
) -> CausalWan:
    """Build a network of the shape of a published state dict, and fill it."""
    merged = to_causal_wan(tensors, alpha)
    model = CausalWan(infer_config(merged, num_heads, text_len))
    fill(model, merged, source)
    return model.eval()
