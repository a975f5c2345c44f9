"""Pictures of many formats as upright sRGB images; no torch, so that a small process can do it."""

import io
import os
import struct
import warnings
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageCms, ImageColor, ImageOps

from af_runtime.errors import PortraitError, RequestError

FORMATS = ("PNG", "JPEG", "WEBP", "AVIF", "BMP", "GIF")
"""Pillow's names of the accepted formats; one that its build lacks is passed over."""

MIN_SIDE = 16
"""Fewer pixels than this along a side are no portrait."""

MAX_PIXELS = 64_000_000
"""Larger pictures are refused before they are decoded; decoding this many takes 0.4 GB."""

BACKGROUND = "#e8eaed"
"""The neutral grey behind transparent pictures and around padded ones."""


def read_picture(source: str | os.PathLike[str], background: str = BACKGROUND) -> Image.Image:
    """Return the picture in a file as an upright sRGB image of its own size."""
    path = Path(source)
    _check_is_readable(path)
    with path.open("rb") as file:
        return decode_picture(file, str(path), background)


def decode_picture(file: BinaryIO, name: str, background: str = BACKGROUND) -> Image.Image:
    """Return the same from an open file; errors call it by its name."""
    ground = parse_colour(background)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(file, formats=_formats()) as image:
                _check_size(name, image.size)
                return _to_rgb(ImageOps.exif_transpose(image), ground)
    except Image.DecompressionBombError as e:
        raise PortraitError(_too_large(name, None)) from e
    except Image.UnidentifiedImageError as e:
        raise PortraitError(
            f"{name} is not a picture that can be read ({file.seek(0, os.SEEK_END)} bytes). "
            "PNG, JPEG, WebP, AVIF, BMP and GIF work."
        ) from e
    except (OSError, SyntaxError, ValueError, EOFError, struct.error) as e:
        raise PortraitError(f"{name} is damaged or cut short: {e}.") from e


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


def _check_is_readable(path: Path) -> None:
    if not path.exists():
        raise PortraitError(f"There is no portrait file {path}.")
    if not path.is_file():
        raise PortraitError(f"{path} is not a file; a picture is needed.")
    if not os.access(path, os.R_OK):
        raise PortraitError(f"{path} may not be read by this user.")
    if path.stat().st_size == 0:
        raise PortraitError(f"{path} is empty (0 bytes).")


def _check_size(path: str, size: tuple[int, int]) -> None:
    if min(size) < MIN_SIDE:
        raise PortraitError(
            f"{path} is {size[0]}x{size[1]} pixels; "
            f"a portrait needs at least {MIN_SIDE} along each side."
        )
    if size[0] * size[1] > MAX_PIXELS:
        raise PortraitError(_too_large(path, size))


def _too_large(path: str, size: tuple[int, int] | None) -> str:
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
