"""A small network that reads pose, eyes and identity from frames of the toon world."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

POSE = ("x", "y", "roll", "yaw", "pitch", "gaze_x", "gaze_y", "blink", "brow")
"""The tracks of ``worlds.toon.motion.Motion``, in its order."""
SIZE = 64


class FaceReader(nn.Module):
    """Frames ``[n, 3, H, W]`` in 0..1 to pose ``[n, 9]`` and an identity vector ``[n, k]``.

    The identity vector estimates the standardised parameters the person was drawn with; the cosine
    of two such vectors is the similarity of two faces (our CSIM).
    """

    pose_mean: Tensor
    pose_std: Tensor

    def __init__(self, num_traits: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = 3
        for i, width in enumerate((24, 48, 64, 96, 96)):
            stride = 1 if i == 0 else 2
            layers += [nn.Conv2d(before, width, 3, stride, 1), nn.GroupNorm(4, width), nn.SiLU()]
            before = width
        self.features = nn.Sequential(*layers, nn.Flatten(), nn.Linear(before * 16, 192), nn.SiLU())
        self.pose = nn.Linear(192, len(POSE))
        self.traits = nn.Linear(192, num_traits)
        self.register_buffer("pose_mean", torch.zeros(len(POSE)))
        self.register_buffer("pose_std", torch.ones(len(POSE)))

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Read pose and identity."""
        seen = self.features(shrink(frames) * 2 - 1)
        return self.pose(seen) * self.pose_std + self.pose_mean, self.traits(seen)


def shrink(frames: Tensor) -> Tensor:
    """Average frames down to the size the reader looks at."""
    return F.interpolate(frames, size=(SIZE, SIZE), mode="area")
