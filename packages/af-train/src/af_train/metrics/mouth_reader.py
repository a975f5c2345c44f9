"""A small network that reads mouth shapes from frames: the toon world's measure of lip sync."""

import torch
from torch import Tensor, nn

from af_train.worlds.toon import visemes

CROP = 64
"""Side of the square around the mouth, for frames of 128 pixels."""
CROP_LEFT, CROP_TOP = 32, 47


def mouth_crop(frames: Tensor, left: int = CROP_LEFT, top: int = CROP_TOP) -> Tensor:
    """Return the square around the mouth of ``[..., 3, 128, 128]`` frames."""
    return frames[..., top : top + CROP, left : left + CROP]


class MouthReader(nn.Module):
    """Mouth crops ``[n, 3, 64, 64]`` in 0..1 to shapes ``[n, 5]`` (see ``worlds.toon.visemes``)."""

    mean: Tensor
    std: Tensor

    def __init__(self, widths: tuple[int, ...] = (24, 32, 64, 96)) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = 3
        for i, width in enumerate(widths):
            layers += [
                nn.Conv2d(before, width, 3, 1 if i == 0 else 2, 1),
                nn.GroupNorm(4, width),
                nn.SiLU(),
            ]
            before = width
        self.features = nn.Sequential(*layers)
        side = CROP // 2 ** (len(widths) - 1)
        self.readout = nn.Sequential(
            nn.Flatten(),
            nn.Linear(before * side * side, 128),
            nn.SiLU(),
            nn.Linear(128, len(visemes.NAMES)),
        )
        self.register_buffer("mean", torch.zeros(len(visemes.NAMES)))
        self.register_buffer("std", torch.ones(len(visemes.NAMES)))

    def forward(self, crops: Tensor) -> Tensor:
        """Read the shapes."""
        return self.read(self.look(crops))

    def look(self, crops: Tensor) -> Tensor:
        """Return the last feature map, a perceptual space for mouths."""
        return self.features(crops * 2 - 1)

    def read(self, features: Tensor) -> Tensor:
        """Turn features into shapes."""
        return self.readout(features) * self.std + self.mean
