"""Builds the audio encoders with their weights; imported only when a pipeline is built."""

import torch
from af_core.plugins import BuildContext
from af_core.weights.files import load

from af_audio.mel import MelConvEncoder
from af_audio.mel_config import MelConvConfig
from af_audio.plugin import MelConvOptions


def mel_conv(options: MelConvOptions, context: BuildContext) -> MelConvEncoder:
    """Return the encoder of the embedded default."""
    fields = MelConvConfig.__struct_fields__
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed)
        encoder = MelConvEncoder(MelConvConfig(**{name: getattr(options, name) for name in fields}))
    if options.weights is not None:
        load(encoder, options.weights)
    return encoder.to(context.device).eval().requires_grad_(False)
