"""Builds wav2vec 2.0 from a Hugging Face checkpoint; imported only when a pipeline is built."""

import json
from typing import Any

import torch
from af_core.plugins import BuildContext
from af_core.weights.checkpoints import read_checkpoint
from af_core.weights.families import require_family, shapes_of
from af_core.weights.report import fill
from torch import Tensor
from torch.nn.utils import parametrize

from af_audio.errors import MissingPackageError
from af_audio.wav2vec2.config import Wav2Vec2Options, config_file, read_shape, weights_file
from af_audio.wav2vec2.features import Wav2Vec2Features
from af_audio.wav2vec2.offline import OfflineWav2Vec2
from af_audio.wav2vec2.streaming import StreamingWav2Vec2

BODY = "wav2vec2."
"""Prefix of the network's own names in a checkpoint that has a head, such as that for text."""
OLD_NAMES = {"weight_g": "parametrizations.weight.original0"}
OLD_NAMES |= {"weight_v": "parametrizations.weight.original1"}
"""Weight norm before and after torch renamed it."""


def build(options: Wav2Vec2Options, context: BuildContext) -> OfflineWav2Vec2 | StreamingWav2Vec2:
    """Return the encoder that the options describe, on the device of the context."""
    network = load_network(options.weights, seed=options.seed)
    network = network.to(device=context.device, dtype=getattr(torch, options.dtype))
    if options.mode == "offline":
        return OfflineWav2Vec2(
            network, slack_frames=options.slack_frames, variance_floor=options.variance_floor
        )
    return StreamingWav2Vec2(
        network,
        left_frames=options.left_context_frames,
        hop_frames=options.hop(context.geometry),
        right_frames=options.right_context_frames,
        revised_frames=options.revised_frames,
        running=options.statistics == "running",
        variance_floor=options.variance_floor,
    )


def load_network(weights: str | None, *, seed: int = 0) -> Wav2Vec2Features:
    """Return the network of a checkpoint, or wav2vec2-base with random weights; float32, CPU.

    Raises ``MissingPackageError`` without transformers, ``ConfigError`` for a network of another
    kind, ``WeightsError`` for weights that do not fit.
    """
    shape = read_shape(weights)
    model = _model(weights, seed)
    if weights is not None:
        file = weights_file(weights)
        tensors = read_checkpoint(file)
        takes = "a checkpoint with the architecture of facebook/wav2vec2-base-960h"
        require_family(shapes_of(tensors), ("wav2vec2",), "the audio encoder", takes, str(file))
        fill(model, _renamed(tensors), str(file))
    parametrize.remove_parametrizations(model.encoder.pos_conv_embed.conv, "weight")
    return Wav2Vec2Features(model, shape).eval().requires_grad_(False)


def _model(weights: str | None, seed: int) -> Any:
    try:
        from transformers import Wav2Vec2Config, Wav2Vec2Model
    except ImportError as e:
        raise MissingPackageError(
            "The audio encoder wav2vec2 needs the package transformers, which is not installed: "
            'pip install "transformers>=4.49" (the extra af-audio[published])'
        ) from e
    table = {} if weights is None else json.loads(config_file(weights).read_text(encoding="utf-8"))
    table |= {"mask_time_prob": 0.0, "mask_feature_prob": 0.0}  # no vector that only training uses
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Wav2Vec2Model(Wav2Vec2Config.from_dict(table))


def _renamed(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the network's own tensors under today's names; heads and masks are left out."""
    if any(name.startswith(BODY) for name in tensors):
        tensors = {
            name.removeprefix(BODY): tensor
            for name, tensor in tensors.items()
            if name.startswith(BODY)
        }
    out: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        stem, _, last = name.rpartition(".")
        if name != "masked_spec_embed":
            out[f"{stem}.{OLD_NAMES[last]}" if last in OLD_NAMES else name] = tensor
    return out
