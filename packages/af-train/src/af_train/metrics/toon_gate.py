"""The gate before any denoiser is trained: does the autoencoder show what lips do?"""

import attrs
import torch
from af_core.models.tiny_vae import TinyVAE

from af_train.metrics import signals
from af_train.metrics.mouth_reader import MouthReader, mouth_crop
from af_train.worlds.toon import Synthesiser, sample_clip
from af_train.worlds.toon.speech import HELD_OUT_VOICES

_FIRST_SEED = 800_000_000
_FRAMES = 201
_LATENTS_PER_CALL = 5


@attrs.frozen
class GateReport:
    """What reconstructions of unseen people are worth."""

    lip_corr: float
    """Pearson's r of mouth opening, read from reconstructions against truth; at least .93."""
    truth_corr: float
    """The same read from the true frames: what the reader can do."""
    psnr_db: float
    """Of all frames; at least 31."""
    border_jump: float
    """Change across borders of latents over change inside, relative to truth; below 1.3."""

    @property
    def shows_lips(self) -> bool:
        """Whether lips and pictures are good enough for a denoiser to be worth training."""
        return self.lip_corr >= 0.93 and self.psnr_db >= 31

    @property
    def passed(self) -> bool:
        """Whether every criterion is met."""
        return self.shows_lips and self.border_jump < 1.3

    def __str__(self) -> str:
        return (
            f"lips r={self.lip_corr:.3f} (>= .93; truth reads {self.truth_corr:.3f}), "
            f"PSNR {self.psnr_db:.1f} dB (>= 31), border jump {self.border_jump:.2f} (< 1.3)"
        )


@torch.inference_mode()
def check_autoencoder(vae: TinyVAE, reader: MouthReader, num_clips: int = 8) -> GateReport:
    """Send clips of unseen people through the autoencoder, streaming, and measure."""
    synthesiser = Synthesiser()
    rows = []
    for i in range(num_clips):
        clip = sample_clip(synthesiser, _FIRST_SEED + i, _FRAMES, HELD_OUT_VOICES)
        truth = clip.frames()
        made = round_trip(vae, truth)
        opening = clip.mouth[:, 0]
        error = (made.float() - truth.float()) / 255
        jumps = [signals.border_jump(v[1:].permute(0, 2, 3, 1), 4) for v in (made, truth)]
        read = [reader(mouth_crop(v.float() / 255))[:, 0] for v in (made, truth)]
        rows.append(
            [
                signals.correlation(read[0], opening),
                signals.correlation(read[1], opening),
                float(-10 * torch.log10(error.square().mean())),
                jumps[0] / jumps[1],
            ]
        )
    return GateReport(*torch.tensor(rows).mean(0).tolist())


def round_trip(vae: TinyVAE, video: torch.Tensor) -> torch.Tensor:
    """Encode and decode uint8 ``[1 + 4 k, 3, H, W]`` piece by piece; returns the same shape."""
    first, memory = vae.encode(video[None, :1].float() / 255)
    frame, decoded = vae.decode(first)
    parts = [frame]
    for piece in video[1:].split(4 * _LATENTS_PER_CALL):
        latents, memory = vae.encode(piece[None].float() / 255, memory)
        frames, decoded = vae.decode(latents, decoded)
        parts.append(frames)
    return (torch.cat(parts, 1)[0].clamp(0, 1) * 255).round().to(torch.uint8)
