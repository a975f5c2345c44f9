"""Train a mouth reader on rendered truth."""

import random
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from af_train.loop import FitConfig, Losses, fit
from af_train.metrics.mouth_reader import CROP, CROP_LEFT, CROP_TOP, MouthReader
from af_train.worlds.toon import TOON_SIZE, Motion, render, sample_identity, visemes
from af_train.worlds.toon.clip import to_bytes
from af_train.worlds.toon.identity import stack
from af_train.worlds.toon.motion import sample_motion

_MARGIN = 4
"""Pixels kept around the crop, so that training can move it."""


def mouth_images(num_images: int, seed: int, batch: int = 20) -> tuple[Tensor, Tensor]:
    """Render large mouth crops uint8 ``[n, 3, 72, 72]`` and their shapes ``[n, 5]``."""
    rng, tensor_rng = random.Random(seed), torch.Generator().manual_seed(seed)
    sounds = torch.tensor(sorted(set(visemes.TARGETS.values()) | {visemes.REST}))
    images, shapes = [], []
    for _ in range(num_images // batch):
        people = stack([sample_identity(rng) for _ in range(batch)])
        motion = sample_motion(torch.rand(batch * 40, generator=tensor_rng), tensor_rng)
        spread = Motion(*(track[::40] for track in motion.tracks()))
        pair = sounds[torch.randint(len(sounds), (2, batch), generator=tensor_rng)]
        mixed = torch.lerp(pair[0], pair[1], torch.rand(batch, 1, generator=tensor_rng))
        drawn = to_bytes(render(people, spread, mixed, TOON_SIZE))
        rows = slice(CROP_TOP - _MARGIN, CROP_TOP + CROP + _MARGIN)
        columns = slice(CROP_LEFT - _MARGIN, CROP_LEFT + CROP + _MARGIN)
        images.append(drawn[:, :, rows, columns].clone())
        shapes.append(mixed)
    return torch.cat(images), torch.cat(shapes)


def train_reader(
    directory: Path, *, steps: int = 1500, num_images: int = 8000, seed: int = 0
) -> MouthReader:
    """Train one reader; another seed gives an independent one."""
    torch.manual_seed(seed)
    reader = MouthReader()
    images, shapes = mouth_images(num_images, seed)
    reader.mean.copy_(shapes.mean(0))
    reader.std.copy_(shapes.std(0))

    def losses_at(step: int) -> Losses:
        rng = torch.Generator().manual_seed(seed * 1_000_003 + step)
        chosen = torch.randint(len(images), (48,), generator=rng)
        crops = _disturb(images[chosen].float() / 255, rng)
        with torch.autocast("cpu", torch.bfloat16):
            read = reader(crops)
        return {"loss": ((read.float() - shapes[chosen]) / reader.std).square().mean()}

    reader.load_state_dict(fit(reader, losses_at, FitConfig(steps, learning_rate=2e-3), directory))
    return reader.eval().requires_grad_(False)


def _disturb(images: Tensor, rng: torch.Generator) -> Tensor:
    """Shift, blur, tint and roughen, so that the reader also reads imperfect frames."""
    left, top = torch.randint(2 * _MARGIN + 1, (2,), generator=rng).tolist()
    crops = images[:, :, top : top + CROP, left : left + CROP]
    if torch.rand((), generator=rng) < 0.5:
        small = int(torch.randint(24, CROP, (1,), generator=rng))
        crops = F.interpolate(crops, size=small, mode="bilinear", antialias=True)
        crops = F.interpolate(crops, size=CROP, mode="bilinear")
    tint = torch.randn(len(crops), 3, 1, 1, generator=rng) * 0.02
    rough = torch.randn(crops.shape, generator=rng) * 0.02
    return crops + tint + rough
