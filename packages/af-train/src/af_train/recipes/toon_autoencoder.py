"""Train the toon autoencoder: crops of clips, mouths first, and a reader that insists on lips.

The autoencoder is the ceiling of lip sync: what it cannot show, no denoiser can say. So most
crops are of mouths, and a frozen mouth reader compares what it sees before and after.
"""

from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from af_core.models.tiny_vae import TinyVAE, TinyVAEConfig
from af_train.loop import FitConfig, Losses, fit
from af_train.metrics.mouth_reader import CROP, CROP_LEFT, CROP_TOP, MouthReader
from af_train.worlds.toon import Synthesiser, sample_clip

TOON_VAE = TinyVAEConfig(
    patch_size=4,
    encoder_channels=(32, 48, 96),
    encoder_blocks=(1, 2),
    encoder_time=(2, 2),
    encoder_space=(2, 2),
    decoder_channels=(96, 48, 32, 32),
    decoder_blocks=(2, 2, 1),
    decoder_time=(2, 2, 1),
    decoder_space=(2, 2, 1),
    pre_norm=True,
)
CLIP_FRAMES = 9
_JITTER = 16
_SIZE = 256


class ClipPool:
    """A ring of rendered clips, uint8 ``[n, 9, 3, 256, 256]``; the oldest make room for new ones."""

    def __init__(self, num_clips: int, seed: int) -> None:
        self._synthesiser = Synthesiser()
        self._seed = seed
        self._next = 0
        self.clips = torch.empty(num_clips, CLIP_FRAMES, 3, _SIZE, _SIZE, dtype=torch.uint8)
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


def train_autoencoder(
    directory: Path,
    reader: MouthReader,
    *,
    steps: int = 5000,
    crops: int = 12,
    pool_size: int = 256,
    seed: int = 0,
    freeze_encoder: bool = False,
    initial: dict[str, Tensor] | None = None,
) -> TinyVAE:
    """Train for ``steps``; with ``freeze_encoder`` polish the decoder of ``initial`` weights."""
    torch.manual_seed(seed)
    model = TinyVAE(TOON_VAE).to(memory_format=torch.channels_last)
    pool = ClipPool(pool_size, seed=1_000_000 * (1 + seed + 7 * freeze_encoder))
    if initial is not None:
        model.load_state_dict(initial)
    model.encoder.requires_grad_(not freeze_encoder)

    def losses_at(step: int) -> Losses:
        if step % 2 == 0:
            pool.refresh()
        rng = torch.Generator().manual_seed(seed * 1_000_003 + step)
        truth, is_mouth = _crops(pool.clips, crops, rng)
        return reconstruction_losses(model, reader, truth, is_mouth, rng)

    config = FitConfig(steps, optimiser="muon", learning_rate=0.02, weight_decay=0.01)
    weights = fit(model, losses_at, config, directory)
    model.load_state_dict(weights)
    return model.eval()


def reconstruction_losses(
    model: TinyVAE, reader: MouthReader, truth: Tensor, num_mouths: int, rng: torch.Generator
) -> Losses:
    """Pixels, edges, motion and mouths of ``truth`` ``[b, t, 3, h, w]``, whose first are mouths."""
    with torch.autocast("cpu", torch.bfloat16):
        latents, _ = model.encode(truth)
        rough = latents + 0.1 * torch.randn(latents.shape, generator=rng)
        guess = model.decode(rough)[0].float()
        error = guess - truth
        seen = reader.look(guess[:num_mouths].flatten(0, 1))
        with torch.no_grad():
            wanted = reader.look(truth[:num_mouths].flatten(0, 1))
        read, right = reader.read(seen).float(), reader.read(wanted).float()
    pixels = error.abs().mean() + 4 * error.square().mean()
    edges = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
    motion = error.diff(dim=1).abs().mean()
    look = F.mse_loss(seen.float(), wanted.float())
    lips = ((read - right) / reader.std).square().mean()
    spread = latents.float().flatten(0, 1).transpose(0, 1).flatten(1)
    unit = (spread.std(1) - 1).square().mean() + spread.mean(1).square().mean()
    loss = pixels + 0.5 * edges + motion + 0.02 * look + 0.05 * lips + 0.1 * unit
    psnr = -10 * torch.log10(error.square().mean())
    return {"loss": loss, "pixels": pixels, "motion": motion, "lips": lips, "unit": unit, "psnr": psnr}


def _crops(clips: Tensor, num_crops: int, rng: torch.Generator) -> tuple[Tensor, int]:
    num_mouths = num_crops * 7 // 12
    clip = torch.randint(len(clips), (num_crops,), generator=rng).tolist()
    left = torch.randint(_SIZE - CROP + 1, (num_crops,), generator=rng)
    top = torch.randint(_SIZE - CROP + 1, (num_crops,), generator=rng)
    jitter = torch.randint(-_JITTER, _JITTER + 1, (2, num_mouths), generator=rng)
    left[:num_mouths], top[:num_mouths] = CROP_LEFT + jitter[0], CROP_TOP + jitter[1]
    flip = torch.rand(num_crops, generator=rng) < 0.5
    parts = []
    for i in range(num_crops):
        part = clips[clip[i], :, :, top[i] : top[i] + CROP, left[i] : left[i] + CROP]
        parts.append(part.flip(-1) if flip[i] else part)
    return torch.stack(parts).float() / 255, num_mouths
