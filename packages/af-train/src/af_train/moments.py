"""Strips of frames: what was true above what was made, at moments of a stream."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from af_core.geometry import VIDEO_FPS
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from af_train.worlds.toon import Clip

MOMENTS_S = (1, 20, 40, 60, 90, 119)
"""Moments of a strip; those after the end are left out."""


def frame_at(second: float, num_frames: int, fps: float = VIDEO_FPS) -> int:
    """Return the frame on show at a moment; the last one for the very end."""
    return min(round(second * fps), num_frames - 1)


def strip(clip: Clip, frames: Tensor, moments_s: Sequence[int] = MOMENTS_S) -> Tensor:
    """Return a row of true over a row of made frames, uint8 ``[2 H, n W, 3]``.

    ``frames`` are uint8 ``[t, H, W, 3]``.
    """
    there = [s for s in moments_s if s * VIDEO_FPS <= len(frames)]
    made = [frames[frame_at(s, len(frames))] for s in there]
    true = [torch.from_numpy(picture) for picture in true_at(clip, there, frames.shape[1])]
    return torch.cat([torch.cat(true, 1), torch.cat(made, 1)], 0)


def true_at(clip: Clip, moments_s: Sequence[int], size: int = 128) -> list[NDArray[np.uint8]]:
    """Return the true frames at moments, uint8 ``[size, size, 3]`` each."""
    shown = [frame_at(s, len(clip)) for s in moments_s]
    return [clip.frames(slice(i, i + 1), size)[0].permute(1, 2, 0).numpy() for i in shown]


def made_at(path: Path, moments_s: Sequence[int]) -> list[NDArray[np.uint8]]:
    """Return the made frames of a strip that was saved, for moments that it begins with."""
    picture = np.asarray(Image.open(path))
    size = picture.shape[0] // 2
    return [picture[size:, i * size : (i + 1) * size] for i in range(len(moments_s))]
