"""The AvatarForcing checkpoint family: its names, its adapters, and the shape read from it."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from af_core.errors import WeightsError
from af_core.geometry import TEMPORAL_STRIDE
from af_core.models.causal_wan import CausalWan
from af_core.models.wan_config import CausalWanConfig
from af_core.weights.diffusers_wan import to_native
from af_core.weights.families import identify, require_family, shapes_of
from af_core.weights.lora import Adapted, separate_lora
from af_core.weights.names import plain_names
from af_core.weights.report import adopt, compare

LORA_RANK = 128
LORA_ALPHA = 64.0
"""The published adapters: scale alpha / rank = 0.5."""

FAMILIES = ("avatarforcing", "causal_wan", "avatar_wan", "lipforcing", "wan", "wan_diffusers")
"""Families whose tensors a ``CausalWan`` of the right config takes."""

TAKES = (
    "a Wan network whole: the published AvatarForcing checkpoint, its merged export, or one of "
    "this project's own"
)


def separated(tensors: Mapping[str, Tensor], source: str, alpha: float = LORA_ALPHA) -> Adapted:
    """Return a state dict as ``CausalWan`` takes it: native names, adapters told apart.

    Nothing is read or computed. Raises ``WeightsError`` for tensors of another family and for
    adapters without their base.
    """
    shapes = shapes_of(tensors)
    require_family(shapes, FAMILIES, "the denoiser", TAKES, source)
    plain = plain_names(tensors)
    if identify(shapes).name == "wan_diffusers":
        plain = to_native(plain)
    return separate_lora(plain, alpha)


def build_causal_wan(
    config: CausalWanConfig,
    tensors: Mapping[str, Tensor],
    source: str,
    *,
    alpha: float = LORA_ALPHA,
    device: str = "cpu",
    dtype: torch.dtype | None = None,
) -> CausalWan:
    """Build a network and give it a published state dict, strictly, with adapters merged.

    The network is built without memory of its own and adopts one tensor after another, merged in
    float32 and cast to ``dtype`` (None: the type in the file), so no second copy is ever held.
    """
    apart = separated(tensors, source, alpha)
    with torch.device("meta"):
        model = CausalWan(config)
    if not compare(model.state_dict(), apart.weights).fits:
        _require_shape(config, apart.weights, source)
    adopt(model, apart.weights, source, device=device, dtype=dtype, write=apart.merge_into)
    return model.eval()


def infer_config(
    tensors: Mapping[str, Tensor], num_heads: int, text_len: int = CausalWanConfig().text_len
) -> CausalWanConfig:
    """Read the shape of a network from a state dict, whatever stands around its names.

    Heads and text rows leave no trace in tensors; where audio enters is the published rule.
    """
    sizes = infer_sizes(separated(tensors, "this state dict").weights)
    if "audio_dim" not in sizes:
        sizes["audio_layers"] = ()
    return CausalWanConfig(num_heads=num_heads, text_len=text_len, **sizes)


def infer_sizes(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return the options of ``CausalWanConfig`` that tensors under native names tell."""
    try:
        patch, head = tensors["patch_embedding.weight"], tensors["head.head.weight"]
        sizes: dict[str, Any] = {
            "dim": patch.shape[0],
            "ffn_dim": tensors["blocks.0.ffn.0.weight"].shape[0],
            "num_layers": 1 + max(int(n.split(".")[1]) for n in tensors if n.startswith("blocks.")),
            "freq_dim": tensors["time_embedding.0.weight"].shape[1],
            "patch": patch.shape[-1],
            "in_channels": patch.shape[1],
            "out_channels": head.shape[0] // patch.shape[-1] ** 2,
            "text_dim": None,
        }
    except KeyError as missing:
        raise WeightsError(f"The weights have no tensor named {missing}.") from missing
    if (text := tensors.get("text_embedding.0.weight")) is not None:
        sizes["text_dim"] = text.shape[1]
    if (audio := tensors.get("audio_proj.proj.weight")) is not None:
        sizes["audio_dim"] = audio.shape[1] // TEMPORAL_STRIDE
        sizes["audio_hidden"] = audio.shape[0]
    return sizes


def _require_shape(config: CausalWanConfig, weights: Mapping[str, Tensor], source: str) -> None:
    """Raise ``WeightsError`` with the options to write if a whole network is of another shape."""
    try:
        sizes = infer_sizes(weights)
    except WeightsError:
        return  # not whole; what is missing will be listed
    other = {name: size for name, size in sizes.items() if size != getattr(config, name)}
    if other:
        differences = ", ".join(f"{n} is {s}, not {getattr(config, n)}" for n, s in other.items())
        options = ", ".join(f"{n}: {'null' if s is None else s}" for n, s in other.items())
        family = identify(shapes_of(weights))
        raise WeightsError(
            f"The weights in {source}, which look like {family.title}, are of another shape than "
            f"the options of the denoiser: {differences}. If they are the ones you want, write: "
            f"{options}."
        )
