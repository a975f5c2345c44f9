"""Square crops that follow the boxes of the truth, and frames brought to one size."""

import torch
from scipy.ndimage import median_filter
from torch import Tensor
from torch.nn import functional as F

_BATCH = 64


def squares(
    boxes: Tensor, margin: float = 0.0, *, smooth: int = 1, below: float = 0.5
) -> tuple[Tensor, Tensor, Tensor]:
    """Return left, top and side, int ``[t]`` each, of a square about each box ``[t, 4]``.

    The side is the longer side of the box times ``1 + margin``; ``below`` is the share of the
    vertical margin that lies below the box. ``smooth`` is the odd number of frames of a running
    median over centres and sides.
    """
    left, top, right, bottom = boxes.double().unbind(1)
    longer = torch.maximum(right - left, bottom - top)
    tracks = torch.stack([(left + right) / 2, (top + bottom) / 2, longer])
    if smooth > 1:
        tracks = torch.from_numpy(median_filter(tracks.numpy(), (1, smooth), mode="nearest"))
    x, y, longer = tracks
    side = (longer * (1 + margin)).round().long().clamp(min=1)
    middle = y + margin * longer * (below - 0.5)
    return (x - side / 2).round().long(), (middle - side / 2).round().long(), side


def crop(frames: Tensor, where: tuple[Tensor, Tensor, Tensor], size: int) -> Tensor:
    """Cut squares out of uint8 ``[t, H, W, 3]`` and return them as uint8 ``[t, size, size, 3]``.

    Beyond the border, the pixels of the border are repeated.
    """
    height, width = frames.shape[1:3]
    cut = []
    for frame, left, top, side in zip(frames, *(v.tolist() for v in where), strict=True):
        rows = torch.arange(top, top + side).clamp(0, height - 1)
        columns = torch.arange(left, left + side).clamp(0, width - 1)
        cut.append(resize(frame[rows][None, :, columns], size))
    return torch.cat(cut)


def resize(frames: Tensor, size: int) -> Tensor:
    """Squash uint8 ``[t, H, W, 3]`` to ``[t, size, size, 3]``, antialiased."""
    if frames.shape[1:3] == (size, size):
        return frames
    parts = []
    for part in frames.split(_BATCH):
        planes = part.permute(0, 3, 1, 2).float()
        small = F.interpolate(planes, size=(size, size), mode="bilinear", antialias=True)
        parts.append(small.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1))
    return torch.cat(parts)
