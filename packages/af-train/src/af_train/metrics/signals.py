"""Numbers from tracks and frames: correlation, lag, drift, flicker. Pure functions."""

from itertools import pairwise

import numpy as np
import torch
from af_core.geometry import VIDEO_FPS
from numpy.typing import NDArray
from skimage.color import deltaE_ciede2000, rgb2lab
from torch import Tensor


def correlation(a: Tensor, b: Tensor) -> float:
    """Pearson's r of two tracks ``[t]``; 0 if either is constant."""
    a, b = a.double() - a.double().mean(), b.double() - b.double().mean()
    scale = a.norm() * b.norm()
    return float(a @ b / scale) if scale > 0 else 0.0


def best_lag(made: Tensor, true: Tensor, reach: int = 8) -> int:
    """Return by how many frames ``made`` is late (positive) for the best correlation."""
    length = len(true)

    def at(lag: int) -> float:
        late = made[max(0, lag) : length + min(0, lag)]
        early = true[max(0, -lag) : length - max(0, lag)]
        return correlation(late, early)

    return max(range(-reach, reach + 1), key=at)


def colour_drift(frames: NDArray[np.uint8]) -> float:
    """CIEDE2000 between the mean colours of the first and the last second of ``[t, H, W, 3]``."""
    ends = [part.reshape(-1, 3).mean(0) / 255 for part in (frames[:VIDEO_FPS], frames[-VIDEO_FPS:])]
    first, last = (rgb2lab(end[None, None])[0, 0] for end in ends)
    return float(deltaE_ciede2000(first, last))


def border_jump(frames: Tensor, frames_per_block: int) -> float:
    """Mean change across block borders over that inside blocks, of uint8 ``[t, H, W, 3]``."""
    changes = torch.stack([(b.float() - a.float()).abs().mean() for a, b in pairwise(frames)])
    at_border = torch.arange(1, len(frames)) % frames_per_block == 0
    return float(changes[at_border].mean() / changes[~at_border].mean().clamp(min=1e-6))


def sharpness(frames: Tensor) -> float:
    """Mean square of the Laplacian of the luminance of ``[t, H, W, 3]`` uint8."""
    grey = frames.float() @ torch.tensor([0.299, 0.587, 0.114])
    laplacian = (
        grey[:, 1:-1, :-2] + grey[:, 1:-1, 2:] + grey[:, :-2, 1:-1] + grey[:, 2:, 1:-1]
    ) - 4 * grey[:, 1:-1, 1:-1]
    return float(laplacian.square().mean())


def count_blinks(blink: Tensor, shut: float = 0.5) -> int:
    """Count how often a lid track ``[t]`` rises through ``shut``."""
    return int(((blink[1:] > shut) & (blink[:-1] <= shut)).sum())
