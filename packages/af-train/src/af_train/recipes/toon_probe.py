"""Train a probe that reads four frames of mouth shapes from one latent frame: the sync expert."""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from af_train.data.toon_latents import LatentClips
from af_train.loop import FitConfig, Losses, fit
from af_train.worlds.toon import visemes

MOUTH_ROWS, MOUTH_COLUMNS = slice(6, 15), slice(3, 13)
"""Latent cells that ever show a mouth, of a 16 x 16 grid."""


class MouthProbe(nn.Module):
    """Latents ``[n, c, 16, 16]`` to mouth shapes ``[n, 4, 5]`` in standard deviations."""

    mean: Tensor
    std: Tensor

    def __init__(self, channels: int = 64, width: int = 64) -> None:
        super().__init__()
        self.look = nn.Conv2d(channels, width, 3)
        self.read = nn.Sequential(nn.Linear(width * 7 * 8, 256), nn.SiLU(), nn.Linear(256, 20))
        self.register_buffer("mean", torch.zeros(len(visemes.NAMES)))
        self.register_buffer("std", torch.ones(len(visemes.NAMES)))

    def forward(self, latents: Tensor) -> Tensor:
        """Read the shapes of the four frames."""
        seen = F.silu(self.look(latents[..., MOUTH_ROWS, MOUTH_COLUMNS]))
        return self.read(seen.flatten(1)).unflatten(1, (4, -1))


def shapes_per_latent(mouths: Tensor) -> Tensor:
    """Group mouth shapes ``[n, 1 + 4 k, 5]`` by the latents ``1..k`` that show them."""
    return mouths[:, 1:].unflatten(1, (-1, 4))


def train_probe(
    directory: Path, clips: LatentClips, *, steps: int = 1500, seed: int = 0
) -> MouthProbe:
    """Train on the latents ``1..`` of every clip, roughened so that it reads estimates too."""
    torch.manual_seed(seed)
    probe = MouthProbe(clips.latents.shape[2])
    shapes = shapes_per_latent(clips.mouths).flatten(0, 1)
    probe.mean.copy_(shapes.flatten(0, 1).mean(0))
    probe.std.copy_(shapes.flatten(0, 1).std(0))
    latents = clips.latents[:, 1:].flatten(0, 1)

    def losses_at(step: int) -> Losses:
        rng = torch.Generator().manual_seed(seed * 1_000_003 + step)
        chosen = torch.randint(len(latents), (128,), generator=rng)
        clean = latents[chosen].float()
        rough = 0.3 * torch.rand(128, 1, 1, 1, generator=rng)
        read = probe(clean + rough * torch.randn(clean.shape, generator=rng))
        return {"loss": (read - (shapes[chosen] - probe.mean) / probe.std).square().mean()}

    config = FitConfig(steps, learning_rate=1e-3, weight_decay=0.05)
    probe.load_state_dict(fit(probe, losses_at, config, directory))
    return probe.eval().requires_grad_(False)
