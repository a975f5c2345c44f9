"""Where faces and mouths are in the pictures of the toon world: known, not detected."""

import torch
from torch import Tensor

from af_train.worlds.toon.canvas import to_pixels
from af_train.worlds.toon.clip import Clip
from af_train.worlds.toon.renderer import TOON_SIZE, head_point

_HALF_FACE = 0.6
_HALF_MOUTH_WIDTH, _HALF_MOUTH_HEIGHT = 0.27, 0.17


def face_boxes(clip: Clip, size: int = TOON_SIZE) -> Tensor:
    """Return left, top, right, bottom in pixels, ``[t, 4]``: one size for all, hair included."""
    nought = torch.zeros(len(clip))
    x, y = head_point(clip.motion, nought, nought)
    return _boxes(x, y, _HALF_FACE, _HALF_FACE, size)


def mouth_boxes(clip: Clip, size: int = TOON_SIZE) -> Tensor:
    """Return the box about any shape of the mouth, ``[t, 4]`` as ``face_boxes``."""
    pose = clip.motion
    x, y = head_point(pose, 0.095 * pose.yaw, 0.30 + 0.055 * pose.pitch)
    return _boxes(x, y, _HALF_MOUTH_WIDTH, _HALF_MOUTH_HEIGHT, size)


def _boxes(x: Tensor, y: Tensor, half_width: float, half_height: float, size: int) -> Tensor:
    left, top = to_pixels(x - half_width, y - half_height, size)
    right, bottom = to_pixels(x + half_width, y + half_height, size)
    return torch.stack([left, top, right, bottom], 1)
