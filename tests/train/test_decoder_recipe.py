"""The decoder's recipe trains the decoder, and nothing else."""

import torch
from af_core.models.tiny_vae import TinyVAE
from af_train.metrics.mouth_reader import MouthReader
from af_train.recipes import toon_autoencoder
from af_train.recipes.toon_autoencoder import TOON_VAE, train_decoder


class _Noise:
    """A pool of clips of noise, made at once."""

    def __init__(self, num_clips, seed):
        rng = torch.Generator().manual_seed(seed)
        size = (num_clips, 5, 3, 128, 128)
        self.clips = torch.randint(0, 256, size, generator=rng, dtype=torch.uint8)

    def refresh(self):
        """Keep them."""


def test_a_frozen_codec_learns_in_its_decoder_and_keeps_its_latents(tmp_path, monkeypatch):
    monkeypatch.setattr(toon_autoencoder, "ClipPool", _Noise)
    model = TinyVAE(TOON_VAE).eval().requires_grad_(False)  # as the stage before hands it over
    before = {name: value.clone() for name, value in model.state_dict().items()}
    reader = MouthReader().requires_grad_(False)
    train_decoder(tmp_path, model, reader, steps=1, num_clips=1, pool_size=1)
    changed = {n for n, value in model.state_dict().items() if not torch.equal(value, before[n])}
    assert changed and {name.partition(".")[0] for name in changed} == {"decoder"}
