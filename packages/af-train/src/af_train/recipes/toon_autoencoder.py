"""Fit and train the toon autoencoder: principal components in, a network out.

Latents are whitened principal components of patches of video, in which mouths count more: fitted
in seconds, optimal among linear codes, and final, so that the decoder can be polished for as long
as one likes without retraining anything that works on latents. The decoder adds to the linear
reconstruction what is not linear: edges across patches, and motion across their borders in time.
A frozen mouth reader insists on lips, for what the decoder does not show, no denoiser can say.
"""

from pathlib import Path

import torch
from af_core.models.tiny_vae import TinyVAE, TinyVAEConfig
from torch import Tensor
from torch.nn import functional as F

from af_train.loop import FitConfig, Losses, fit
from af_train.metrics.mouth_reader import MouthReader, mouth_crop
from af_train.worlds.toon import TOON_SIZE, Synthesiser, sample_clip

TOON_VAE = TinyVAEConfig(
    latent_channels=64,
    patch_size=4,
    encoder_channels=(),
    encoder_blocks=(),
    encoder_time=(),
    encoder_space=(),
    decoder_channels=(96, 64, 48, 32),
    decoder_blocks=(2, 1, 1),
    decoder_time=(2, 2, 1),
    decoder_space=(2, 1, 1),
    pre_norm=True,
    shortcut=True,
)
CLIP_FRAMES = 9
_MOUTH_SHARE = 6.0
_EDGES = ("decoder.1.", "decoder.17.")


class ClipPool:
    """A ring of rendered clips, uint8 ``[n, 9, 3, 128, 128]``; the oldest make room."""

    def __init__(self, num_clips: int, seed: int) -> None:
        self._synthesiser = Synthesiser()
        self._seed = seed
        self._next = 0
        self.clips = torch.empty(num_clips, CLIP_FRAMES, 3, TOON_SIZE, TOON_SIZE, dtype=torch.uint8)
        self.mouths = torch.empty(num_clips, CLIP_FRAMES, 5)
        for _ in range(num_clips):
            self.refresh()

    def refresh(self) -> None:
        """Replace the oldest clip by one never seen before."""
        slot = self._next % len(self.clips)
        clip = sample_clip(self._synthesiser, self._seed + self._next, 60)
        start = (self._next * 7) % (60 - CLIP_FRAMES)
        window = slice(start, start + CLIP_FRAMES)
        self.clips[slot] = clip.frames(window)
        self.mouths[slot] = clip.mouth[window]
        self._next += 1


def fit_encoder(*, num_clips: int = 768, seed: int = 0) -> TinyVAE:
    """Return an autoencoder whose linear paths are fitted; its decoder network adds nothing yet."""
    torch.manual_seed(seed)
    model = TinyVAE(TOON_VAE)
    clips = ClipPool(num_clips, seed=2_000_000).clips
    cells = model.fold(clips[:, 1:].float() / 255).permute(0, 1, 3, 4, 2)
    weights = torch.ones(cells.shape[:4])
    weights[:, :, 8:13, 5:11] = _MOUTH_SHARE
    model.start_from_components(cells.flatten(0, 3), weights.flatten())
    return model


def train_decoder(
    directory: Path,
    model: TinyVAE,
    reader: MouthReader,
    *,
    steps: int = 5000,
    num_clips: int = 4,
    pool_size: int = 512,
    seed: int = 0,
) -> TinyVAE:
    """Train the decoder network of ``model``; its latents stay what they are."""
    pool = ClipPool(pool_size, seed=1_000_000 * (1 + seed))
    model.train().requires_grad_(True)
    model.shortcut_in.requires_grad_(False)
    model.shortcut_out.requires_grad_(False)

    def losses_at(step: int) -> Losses:
        if step % 2 == 0:
            pool.refresh()
        rng = torch.Generator().manual_seed(seed * 1_000_003 + step)
        chosen = torch.randint(len(pool.clips), (num_clips,), generator=rng)
        truth = pool.clips[chosen].float() / 255
        if torch.rand((), generator=rng) < 0.5:
            truth = truth.flip(-1)
        return reconstruction_losses(model, reader, truth, weights, rng)

    weights = pixel_weights()
    config = FitConfig(steps, optimiser="muon", edges=_EDGES, learning_rate=0.01, weight_decay=0.01)
    model.load_state_dict(fit(model, losses_at, config, directory))
    return model.eval()


def pixel_weights() -> Tensor:
    """Return how much each pixel matters, ``[128, 128]``: mouths most, then eyes."""
    place = torch.linspace(-1, 1, TOON_SIZE)
    x, y = place[None, :], place[:, None]
    mouth = torch.exp(-((x / 0.35) ** 2) - ((y - 0.24) / 0.25) ** 2)
    eyes = torch.exp(-((x / 0.45) ** 2) - ((y + 0.14) / 0.2) ** 2)
    return 1 + 5 * mouth + 1.5 * eyes


def reconstruction_losses(
    model: TinyVAE, reader: MouthReader, truth: Tensor, weights: Tensor, rng: torch.Generator
) -> Losses:
    """Measure what a round trip does to ``truth [b, t, 3, h, w]``: pixels, edges, motion, lips."""
    with torch.autocast("cpu", torch.bfloat16):
        with torch.no_grad():
            latents, _ = model.encode(truth)
        rough = latents + 0.1 * torch.randn(latents.shape, generator=rng)
        guess = model.decode(rough)[0].float()
        seen = reader.look(mouth_crop(guess).flatten(0, 1))
        with torch.no_grad():
            wanted = reader.look(mouth_crop(truth).flatten(0, 1))
        read, right = reader.read(seen).float(), reader.read(wanted).float()
    error = guess - truth
    weighted = error * weights
    pixels = weighted.abs().mean() + 4 * (weighted * error).mean()
    edges = weighted.diff(dim=-1).abs().mean() + weighted.diff(dim=-2).abs().mean()
    motion = weighted.diff(dim=1).abs().mean()
    look = F.mse_loss(seen.float(), wanted.float())
    lips = ((read - right) / reader.std).square().mean()
    loss = pixels + 0.5 * edges + motion + 0.02 * look + 0.1 * lips
    psnr = -10 * torch.log10(error.square().mean())
    return {"loss": loss, "pixels": pixels, "motion": motion, "lips": lips, "psnr": psnr}
