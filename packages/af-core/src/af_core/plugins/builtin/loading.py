"""Builds the built-in networks; the only module of the built-ins that imports torch."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import msgspec
import torch
from torch import nn

from af_core.decoders.soft_borders import SoftBorders
from af_core.decoders.still import StillDecoder
from af_core.decoders.tiny_vae import TinyVAEDecoder, TinyVAEImageEncoder
from af_core.decoders.wan_vae import WanVAEDecoder, WanVAEImageEncoder
from af_core.models.causal_wan import CausalWan
from af_core.models.tiny_vae import TinyVAE
from af_core.models.tiny_vae_config import TinyVAEConfig
from af_core.models.wan_config import CausalWanConfig
from af_core.models.wan_vae import WanDecoder, WanEncoder
from af_core.models.wan_vae_config import WanVAEConfig
from af_core.plugins.builtin.networks import CausalWanOptions, TinyVAEDecoderOptions, TinyVAEOptions
from af_core.plugins.builtin.wan_vae import WanVAEDecoderOptions, WanVAEOptions
from af_core.plugins.contract import BuildContext
from af_core.stages.decoder import Decoder
from af_core.weights.avatarforcing import build_causal_wan
from af_core.weights.checkpoints import read_checkpoint
from af_core.weights.families import require_family, shapes_of
from af_core.weights.report import fill
from af_core.weights.wan_vae import load_wan_vae

ConfigT = TypeVar("ConfigT", bound=msgspec.Struct)
ModuleT = TypeVar("ModuleT", bound=nn.Module)
HalfT = TypeVar("HalfT", WanEncoder, WanDecoder)


def shape_of(options: ConfigT, config: type[ConfigT]) -> ConfigT:
    """Return the part of the options that is the network's own config."""
    return config(**{name: getattr(options, name) for name in config.__struct_fields__})


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw initial weights from this seed and leave torch's own generator as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def ready(module: ModuleT, context: BuildContext, dtype: torch.dtype) -> ModuleT:
    """Return the module frozen, on its device and in its type."""
    return module.to(device=context.device, dtype=dtype).eval().requires_grad_(False)


def causal_wan(options: CausalWanOptions, context: BuildContext) -> CausalWan:
    """Return the denoising network in the pipeline's precision, on its device, packed for it."""
    config = shape_of(options, CausalWanConfig)
    dtype = getattr(torch, context.precision)
    if options.weights is None:
        with seeded(options.seed):
            network = CausalWan(config)
    else:
        network = build_causal_wan(
            config,
            read_checkpoint(options.weights, entry=options.entry),
            options.weights,
            alpha=options.lora_alpha,
            device=context.device,
            dtype=dtype,
        )
    network.attention.kernel = options.attention
    network.merge_padding = options.merge_padding
    return ready(network, context, dtype).pack()


def tiny_vae_decoder(options: TinyVAEDecoderOptions, context: BuildContext) -> Decoder[Any]:
    """Return the decoder half; the encoder's weights are let go."""
    vae = _without(_tiny_vae(options, context), "encoder", "shortcut_in")
    decoder = _stilled(TinyVAEDecoder(vae), options.still)
    return SoftBorders(decoder, options.soft_borders) if options.soft_borders else decoder


def _stilled(decoder: Decoder[Any], threshold: float) -> Decoder[Any]:
    return StillDecoder(decoder, threshold) if threshold else decoder


def tiny_vae_image_encoder(options: TinyVAEOptions, context: BuildContext) -> TinyVAEImageEncoder:
    """Return the encoder half; the decoder's weights are let go."""
    vae = _without(_tiny_vae(options, context), "decoder", "shortcut_out")
    return TinyVAEImageEncoder(vae)


def _without(vae: TinyVAE, *parts: str) -> TinyVAE:
    for name in {*parts} & {name for name, _ in vae.named_children()}:
        delattr(vae, name)
    return vae


def _tiny_vae(options: TinyVAEOptions, context: BuildContext) -> TinyVAE:
    config = shape_of(options, TinyVAEConfig)
    with seeded(options.seed):
        vae = TinyVAE(config)
    if options.weights is not None:
        tensors = read_checkpoint(options.weights)
        takes = "the weights of TAEHV (taew2_1) or of this project's own autoencoders"
        require_family(shapes_of(tensors), ("taehv",), "tiny_vae", takes, options.weights)
        fill(vae, tensors, options.weights)
    return ready(vae, context, torch.float32)


def wan_vae_decoder(options: WanVAEDecoderOptions, context: BuildContext) -> Decoder[Any]:
    """Return the decoder half of Wan's autoencoder."""
    vae = _wan_half(WanDecoder, options, context)
    decoder = WanVAEDecoder(vae, options.latents_per_call, options.rounding)
    return _stilled(decoder, options.still)


def wan_vae_image_encoder(options: WanVAEOptions, context: BuildContext) -> WanVAEImageEncoder:
    """Return the encoder half of Wan's autoencoder."""
    return WanVAEImageEncoder(_wan_half(WanEncoder, options, context))


def _wan_half(half: type[HalfT], options: WanVAEOptions, context: BuildContext) -> HalfT:
    with seeded(options.seed):
        vae = half(shape_of(options, WanVAEConfig))
    if options.weights is not None:
        tensors = read_checkpoint(options.weights)
        families, takes = ("wan_vae", "wan_vae_diffusers"), "the Wan 2.1 video autoencoder"
        require_family(shapes_of(tensors), families, "wan_vae", takes, options.weights)
        load_wan_vae(vae, tensors, options.weights)
    return ready(vae, context, getattr(torch, options.dtype))
