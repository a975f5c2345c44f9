"""Between colours in 0..1, as networks know them, and the uint8 pixels that people see."""

from typing import Literal

import torch
from torch import Tensor

Rounding = Literal["nearest", "truncate"]


def from_pixels(image: Tensor) -> Tensor:
    """Return float32 colours in 0..1 ``[b, 3, H, W]`` of uint8 ``[b, H, W, 3]``."""
    return image.permute(0, 3, 1, 2).float() / 255


def to_pixels(video: Tensor, rounding: Rounding = "nearest") -> Tensor:
    """Return uint8 ``[b, n, H, W, 3]`` of colours in 0..1 ``[b, n, 3, H, W]``; others are cut.

    ``truncate`` is what the authors' releases do, on average half a grey level darker.
    """
    levels = video.clamp(0, 1) * 255
    if rounding == "nearest":
        levels.round_()
    return levels.to(torch.uint8).permute(0, 1, 3, 4, 2).contiguous()
