"""Any picture to the portrait a preset takes: uint8 RGB ``[H, W, 3]``, upright and undistorted."""

import io
import os
import struct
import warnings
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from PIL import Image, ImageCms, ImageColor, ImageOps
from torch import Tensor

from af_runtime.errors import PortraitError, RequestError

Fit = Literal["crop", "pad", "match", "release"]
"""``crop`` fills the frame and cuts what is over; ``pad`` shows all and adds background; ``match``
makes the frame the picture's shape; ``release`` makes it as the authors do, bending it a little."""

FORMATS = ("PNG", "JPEG", "WEBP", "AVIF", "BMP", "GIF")
"""Pillow's names of the accepted formats; one that its build lacks is passed over."""

MIN_SIDE = 16
"""Fewer pixels than this along a side are no portrait."""

MAX_PIXELS = 64_000_000
"""Larger pictures are refused before they are decoded; decoding this many takes 0.4 GB."""

CROP_CENTRE = (0.5, 0.4)
"""Where a crop is centred, as shares of the width and height: faces are above the middle."""

BACKGROUND = "#e8eaed"
"""The neutral grey behind transparent pictures and around padded ones."""


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


def read_picture(source: str | os.PathLike[str], background: str = BACKGROUND) -> Image.Image:
    """Return the picture in a file as an upright sRGB image of its own size."""
    path = Path(source)
    _check_is_readable(path)
    ground = parse_colour(background)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path, formats=_formats()) as image:
                _check_size(path, image.size)
                return _to_rgb(ImageOps.exif_transpose(image), ground)
    except Image.DecompressionBombError as e:
        raise PortraitError(_too_large(path, None)) from e
    except Image.UnidentifiedImageError as e:
        raise PortraitError(
            f"{path} is not a picture that can be read ({path.stat().st_size} bytes). "
            "PNG, JPEG, WebP, AVIF, BMP and GIF work."
        ) from e
    except (OSError, SyntaxError, ValueError, EOFError, struct.error) as e:
        raise PortraitError(f"{path} is damaged or cut short: {e}.") from e


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


def parse_colour(text: str) -> tuple[int, int, int]:
    """Return the RGB of a colour such as ``#e8eaed``, ``teal`` or ``hsl(200, 50%, 50%)``."""
    try:
        red, green, blue = ImageColor.getrgb(text)[:3]
    except ValueError as e:
        raise RequestError(
            f"There is no colour {text!r}; write a CSS name or #rrggbb, for example {BACKGROUND}."
        ) from e
    return red, green, blue


def _formats() -> list[str]:
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def _filter() -> Image.Resampling:
    return Image.Resampling.BICUBIC  # antialiased; LANCZOS rings at the borders of flat colours


def _check_is_readable(path: Path) -> None:
    if not path.exists():
        raise PortraitError(f"There is no portrait file {path}.")
    if not path.is_file():
        raise PortraitError(f"{path} is not a file; a picture is needed.")
    if not os.access(path, os.R_OK):
        raise PortraitError(f"{path} may not be read by this user.")
    if path.stat().st_size == 0:
        raise PortraitError(f"{path} is empty (0 bytes).")


def _check_size(path: Path, size: tuple[int, int]) -> None:
    if min(size) < MIN_SIDE:
        raise PortraitError(
            f"{path} is {size[0]}x{size[1]} pixels; "
            f"a portrait needs at least {MIN_SIDE} along each side."
        )
    if size[0] * size[1] > MAX_PIXELS:
        raise PortraitError(_too_large(path, size))


def _too_large(path: Path, size: tuple[int, int] | None) -> str:
    seen = f"{size[0]}x{size[1]}" if size else "an enormous number of"
    limit = MAX_PIXELS // 1_000_000
    return f"{path} has {seen} pixels; {limit} million at most are decoded. Make it smaller."


def _to_rgb(image: Image.Image, ground: tuple[int, int, int]) -> Image.Image:
    """Return the image as 8-bit sRGB on an opaque ground."""
    image = _to_eight_bits(image)
    profile = image.info.get("icc_profile")
    if image.has_transparency_data:
        colour = image.convert("RGBA")
        under = Image.new("RGBA", colour.size, (*ground, 255))
        return _to_srgb(Image.alpha_composite(under, colour).convert("RGB"), profile)
    if image.mode in ("RGB", "CMYK", "L"):
        return _to_srgb(image, profile)
    return image.convert("RGB")


def _to_eight_bits(image: Image.Image) -> Image.Image:
    """Return a 16-bit grey image scaled to 8 bits; Pillow's own conversion clips it to white."""
    if image.mode != "I" and not image.mode.startswith("I;16"):
        return image
    values = np.asarray(image).astype(np.float32)
    return Image.fromarray(np.rint(values.clip(0, 65_535) / 257).astype(np.uint8))


def _to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Return the image in sRGB; a damaged or unfitting colour profile is passed over."""
    if profile:
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            target = ImageCms.createProfile("sRGB")
            converted = ImageCms.profileToProfile(image, source, target, outputMode="RGB")
            return converted or image.convert("RGB")
        except (ImageCms.PyCMSError, OSError, TypeError):
            pass
    return image.convert("RGB")
