"""Fit the toon autoencoder: principal components in, a linear map over neighbours out.

Latents are whitened principal components of patches of video, in which mouths count more. The
decoder sees a latent cell, its neighbours and the latent before, and is fitted to these latents
(`toon_decoder`), so it can be fitted again without retraining anything that works on latents.
"""

import torch
from af_core.models.tiny_vae import TinyVAE, TinyVAEConfig
from torch import Tensor

from af_train.recipes.toon_decoder import fit_decoder
from af_train.worlds.toon import TOON_SIZE, Synthesiser, sample_clip

TOON_VAE = TinyVAEConfig(
    latent_channels=64,
    patch_size=8,
    encoder_channels=(),
    encoder_blocks=(),
    encoder_time=(),
    encoder_space=(),
    decoder_channels=(),
    decoder_blocks=(),
    decoder_time=(4,),
    decoder_space=(1,),
    shortcut=True,
    shortcut_context=True,
)
CLIP_FRAMES = 25
_FIRST_SEED = 2_000_000
_MOUTH_SHARE = 6.0


def fit_autoencoder(*, num_clips: int = 768, first_seed: int = _FIRST_SEED) -> TinyVAE:
    """Fit encoder and decoder to clips of these many people."""
    clips, weights = draw_clips(num_clips, first_seed), cell_weights()
    model = TinyVAE(TOON_VAE).eval()
    cells = model.fold(clips[:, 1:9].float() / 255).permute(0, 1, 3, 4, 2)
    shares = weights.expand(cells.shape[:4])
    model.start_from_components(cells.flatten(0, 3), shares.flatten())
    fit_decoder(model, clips, weights)
    return model


def draw_clips(num_clips: int, first_seed: int) -> Tensor:
    """Render a second of each of ``num_clips`` people, uint8 ``[n, 25, 3, 128, 128]``."""
    synthesiser = Synthesiser()
    clips = torch.empty(num_clips, CLIP_FRAMES, 3, TOON_SIZE, TOON_SIZE, dtype=torch.uint8)
    for i in range(num_clips):
        start = (7 * i) % (60 - CLIP_FRAMES)
        clip = sample_clip(synthesiser, first_seed + i, 60)
        clips[i] = clip.frames(slice(start, start + CLIP_FRAMES))
    return clips


def cell_weights() -> Tensor:
    """Return how much each latent cell counts, ``[16, 16]``: those that show mouths count most."""
    weights = torch.ones(16, 16)
    weights[8:13, 5:11] = _MOUTH_SHARE
    return weights
