"""The checkpoint family of the Wan 2.1 autoencoder: the authors' names, and those of diffusers."""

from collections.abc import Mapping

from torch import Tensor

from af_core.errors import WeightsError
from af_core.models.wan_vae import WanDecoder, WanEncoder
from af_core.models.wan_vae_config import WanVAEConfig, decoder_layers, encoder_layers
from af_core.weights.report import fill

ENCODER_HALF = frozenset({"encoder", "conv1"})
DECODER_HALF = frozenset({"decoder", "conv2"})
"""First parts of the authors' names of each half."""

_RESIDUAL = {
    "residual.0": "norm1",
    "residual.2": "conv1",
    "residual.3": "norm2",
    "residual.6": "conv2",
    "shortcut": "conv_shortcut",
}
_RESAMPLE = {"resample.1": "resample.1", "time_conv": "time_conv"}
_ATTENTION = {"norm": "norm", "to_qkv": "to_qkv", "proj": "proj"}


def load_wan_vae(
    model: WanEncoder | WanDecoder, tensors: Mapping[str, Tensor], source: str
) -> None:
    """Fill one half from a state dict with the names of the authors or of diffusers, strictly.

    The other half, if it is there, is passed over. ``source`` names the file in messages.
    """
    other = DECODER_HALF if isinstance(model, WanEncoder) else ENCODER_HALF
    named = authors_names(tensors, model.config)
    fill(model, {n: t for n, t in named.items() if n.partition(".")[0] not in other}, source)


def authors_names(tensors: Mapping[str, Tensor], config: WanVAEConfig) -> dict[str, Tensor]:
    """Return the tensors under the authors' names; names of neither family stay as they are."""
    theirs = {theirs: ours for ours, theirs in module_names(config).items()}
    renamed = {_renamed(name, theirs): tensor for name, tensor in tensors.items()}
    if len(renamed) < len(tensors):
        twice = sorted(n for n in tensors if n not in renamed and _renamed(n, theirs) in tensors)
        raise WeightsError(
            "Tensors are there twice, by the authors' name and by that of diffusers: "
            + ", ".join(twice)
            + "."
        )
    return renamed


def diffusers_names(tensors: Mapping[str, Tensor], config: WanVAEConfig) -> dict[str, Tensor]:
    """Return tensors with the authors' names as ``diffusers.AutoencoderKLWan`` takes them."""
    ours = module_names(config)
    return {_renamed(name, ours): tensor for name, tensor in tensors.items()}


def module_names(config: WanVAEConfig) -> dict[str, str]:
    """Return the name in diffusers of each module that has weights, by the authors' name."""
    names = {"conv1": "quant_conv", "conv2": "post_quant_conv"}
    for half in ("encoder", "decoder"):
        middle, block = f"{half}.middle", f"{half}.mid_block"
        names[f"{half}.conv1"] = f"{half}.conv_in"
        names |= _inside(f"{middle}.0", f"{block}.resnets.0", _RESIDUAL)
        names |= _inside(f"{middle}.1", f"{block}.attentions.0", _ATTENTION)
        names |= _inside(f"{middle}.2", f"{block}.resnets.1", _RESIDUAL)
        names |= {f"{half}.head.0": f"{half}.norm_out", f"{half}.head.2": f"{half}.conv_out"}
    for i, layer in enumerate(encoder_layers(config)):
        parts = _RESIDUAL if layer.kind == "residual" else _RESAMPLE
        names |= _inside(f"encoder.downsamples.{i}", f"encoder.down_blocks.{i}", parts)
    for i, layer in enumerate(decoder_layers(config)):
        level, place = divmod(i, config.num_res_blocks + 2)
        block = f"decoder.up_blocks.{level}"
        residual = layer.kind == "residual"
        theirs = f"{block}.resnets.{place}" if residual else f"{block}.upsamplers.0"
        names |= _inside(f"decoder.upsamples.{i}", theirs, _RESIDUAL if residual else _RESAMPLE)
    return names


def _inside(ours: str, theirs: str, parts: Mapping[str, str]) -> dict[str, str]:
    return {f"{ours}.{own}": f"{theirs}.{their}" for own, their in parts.items()}


def _renamed(name: str, modules: Mapping[str, str]) -> str:
    module, _, leaf = name.rpartition(".")
    return f"{modules.get(module, module)}.{leaf}" if module else name
