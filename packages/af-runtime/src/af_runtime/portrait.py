"""Any picture to the portrait a preset takes: uint8 RGB ``[H, W, 3]``, upright and undistorted."""

import os
from typing import Literal, get_args

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from af_runtime.errors import RequestError
from af_runtime.pictures import BACKGROUND as BACKGROUND
from af_runtime.pictures import MAX_PIXELS as MAX_PIXELS
from af_runtime.pictures import parse_colour
from af_runtime.pictures import read_picture as read_picture

Fit = Literal["crop", "pad", "match", "release"]
"""``crop`` fills the frame and cuts what is over; ``pad`` shows all and adds background; ``match``
makes the frame the picture's shape; ``release`` makes it as the authors do, bending it a little."""

CROP_CENTRE = (0.5, 0.4)
"""Where a crop is centred, as shares of the width and height: faces are above the middle."""


def load_portrait(
    source: str | os.PathLike[str],
    *,
    width: int,
    height: int,
    fit: Fit = "crop",
    background: str = BACKGROUND,
) -> Tensor:
    """Return the picture in a file as uint8 RGB ``[height, width, 3]``.

    EXIF rotation is applied, transparency is laid on ``background``, colour profiles, CMYK, grey,
    palettes and 16 bits become sRGB, and the aspect ratio is kept (`Fit`).
    """
    return fit_portrait(read_picture(source, background), width, height, fit, background)


def fit_portrait(
    image: Image.Image, width: int, height: int, fit: Fit = "crop", background: str = BACKGROUND
) -> Tensor:
    """Return an RGB image as uint8 ``[height, width, 3]``, its aspect ratio kept."""
    if fit not in get_args(Fit):
        raise RequestError(f"A portrait is fitted by one of {get_args(Fit)}; got {fit!r}.")
    if image.size == (width, height):
        fitted = image
    elif fit == "release":
        fitted = image.resize((width, height), Image.Resampling.BILINEAR)
    elif fit in ("crop", "match"):
        fitted = ImageOps.fit(image, (width, height), _filter(), centering=CROP_CENTRE)
    else:
        colour = parse_colour(background)
        fitted = ImageOps.pad(image, (width, height), _filter(), color=colour)
    return torch.from_numpy(np.array(fitted))


def _filter() -> Image.Resampling:
    return Image.Resampling.BICUBIC  # antialiased; LANCZOS rings at the borders of flat colours
