"""Train probes that read four frames of mouth shapes, or of motion, from one latent frame.

They are the experts that tell a student what it drew: squared error of latents alone hardly sees
lips, and a head that is out of place by two pixels.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import attrs
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from af_train.data.toon_latents import LatentClips
from af_train.loop import FitConfig, Losses, fit
from af_train.worlds.toon import Motion, visemes

MOUTH_ROWS, MOUTH_COLUMNS = slice(6, 15), slice(3, 13)
"""Latent cells that ever show a mouth, of a 16 x 16 grid."""

_LEAST_STD = 1e-3
"""Of a track that hardly moves in the clips, such as lids in a few of them."""
P = TypeVar("P", bound="Probe")


class Probe(nn.Module):
    """Latents ``[n, c, 16, 16]`` to ``k`` tracks ``[n, 4, k]`` in standard deviations."""

    mean: Tensor
    std: Tensor

    def __init__(self, look: nn.Module, seen: int, num_tracks: int) -> None:
        super().__init__()
        self.look = look
        hidden, out = nn.Linear(seen, 256), nn.Linear(256, 4 * num_tracks)
        self.read = nn.Sequential(hidden, nn.SiLU(), out)
        self.register_buffer("mean", torch.zeros(num_tracks))
        self.register_buffer("std", torch.ones(num_tracks))

    def forward(self, latents: Tensor) -> Tensor:
        """Read the tracks of the four frames."""
        seen = F.silu(self.look(self.crop(latents)))
        return self.read(seen.flatten(1)).unflatten(1, (4, -1))

    def crop(self, latents: Tensor) -> Tensor:
        """Return the cells that are looked at."""
        return latents

    def normed(self, tracks: Tensor) -> Tensor:
        """Return tracks ``[..., k]`` in standard deviations."""
        return (tracks - self.mean) / self.std


class MouthProbe(Probe):
    """Reads mouth shapes (see ``visemes``) from the cells about the mouth."""

    def __init__(self, channels: int = 64, width: int = 64) -> None:
        super().__init__(nn.Conv2d(channels, width, 3), width * 7 * 8, len(visemes.NAMES))

    def crop(self, latents: Tensor) -> Tensor:
        """Return the cells that ever show a mouth."""
        return latents[..., MOUTH_ROWS, MOUTH_COLUMNS]


class MotionProbe(Probe):
    """Reads poses, glances and lids (see ``Motion``) from the whole picture."""

    trust: Tensor
    """How much each track counts ``[k]``: one over the error of reading it, 1 on average."""

    def __init__(self, channels: int = 64, width: int = 64) -> None:
        look = nn.Sequential(
            nn.Conv2d(channels, width, 3, 2, padding=1),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, 2, padding=1),
        )
        super().__init__(look, width * 4 * 4, len(attrs.fields(Motion)))
        self.register_buffer("trust", torch.ones(len(attrs.fields(Motion))))


def per_latent(tracks: Tensor) -> Tensor:
    """Group tracks ``[n, 1 + 4 k, ...]`` by the latents ``1..k`` that show them."""
    return tracks[:, 1:].unflatten(1, (-1, 4))


def train_mouth_probe(directory: Path, clips: LatentClips, *, steps: int = 1500) -> MouthProbe:
    """Train on the mouths of clips."""
    return _train(lambda: MouthProbe(clips.latents.shape[2]), clips.mouths, directory, clips, steps)


def train_motion_probe(directory: Path, clips: LatentClips, *, steps: int = 1500) -> MotionProbe:
    """Train on the motion of clips."""
    return _train(
        lambda: MotionProbe(clips.latents.shape[2]), clips.motions, directory, clips, steps
    )


def _train(
    make: Callable[[], P], tracks: Tensor, directory: Path, clips: LatentClips, steps: int
) -> P:
    """Train on the latents ``1..`` of clips, roughened so that it reads estimates too.

    One clip in sixteen, or the last one, is kept apart to see what can be trusted.
    """
    torch.manual_seed(0)
    probe = make()
    wanted = per_latent(tracks).flatten(0, 1)
    probe.mean.copy_(wanted.flatten(0, 1).mean(0))
    probe.std.copy_(wanted.flatten(0, 1).std(0).clamp(min=_LEAST_STD))
    latents = clips.latents[:, 1:].flatten(0, 1)
    apart = (len(latents) // len(clips)) * max(1, len(clips) // 16)

    def losses_at(step: int) -> Losses:
        rng = torch.Generator().manual_seed(step)
        chosen = torch.randint(max(1, len(latents) - apart), (128,), generator=rng)
        clean = latents[chosen].float()
        rough = 0.3 * torch.rand(128, 1, 1, 1, generator=rng)
        read = probe(clean + rough * torch.randn(clean.shape, generator=rng))
        return {"loss": (read - probe.normed(wanted[chosen])).square().mean()}

    config = FitConfig(steps, learning_rate=1e-3, weight_decay=0.05)
    probe.load_state_dict(fit(probe, losses_at, config, directory))
    if isinstance(probe, MotionProbe):
        with torch.no_grad():
            read = probe(latents[-apart:].float())
        errors = (read - probe.normed(wanted[-apart:])).square().mean((0, 1))
        certainty = 1 / errors.clamp(min=1e-3)
        probe.trust.copy_(certainty / certainty.mean())
    return probe.eval().requires_grad_(False)
