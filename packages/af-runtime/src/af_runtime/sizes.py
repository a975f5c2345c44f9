"""Sizes of videos that suit a portrait: the release's rule, and one that keeps the shape."""

import math
import re
from collections.abc import Mapping
from typing import Any

from af_core.geometry import Geometry
from af_core.graph import check_pipeline

from af_runtime.errors import RequestError
from af_runtime.portrait import Fit

RELEASE_PIXELS = 832 * 480
"""Pixels of a frame that the authors' release never exceeds."""
RELEASE_MULTIPLE = 16


def release_size(width: int, height: int) -> tuple[int, int]:
    """Return (width, height) as the release makes them of a picture's (spec section 5.3).

    Scaled down, never up, to at most 832 x 480 pixels in all; each side is then cut to a multiple
    of 16, which bends the shape a little.
    """
    scale = min(1.0, math.sqrt(RELEASE_PIXELS / (width * height)))
    sides = (int(side * scale) // RELEASE_MULTIPLE * RELEASE_MULTIPLE for side in (width, height))
    across, down = (max(RELEASE_MULTIPLE, side) for side in sides)
    return across, down


def matching_size(width: int, height: int, geometry: Geometry) -> tuple[int, int]:
    """Return the size nearest to a picture's shape with about the pixels of ``geometry``."""
    multiple, pixels = geometry.pixels_per_token, geometry.width * geometry.height
    across = math.sqrt(pixels * width / height)
    sides = (max(1, round(side / multiple)) * multiple for side in (across, pixels / across))
    wide, high = sides
    return wide, high


def parse_size(text: str) -> tuple[int, int]:
    """Return (width, height) of a text such as ``832x480``."""
    found = re.fullmatch(r"\s*(\d+)\s*[xX×]\s*(\d+)\s*", text)
    if not found:
        raise RequestError(f"A size is written WIDTHxHEIGHT, such as 832x480; got {text!r}.")
    return int(found[1]), int(found[2])


def size_overrides(
    picture: tuple[int, int], fit: Fit, preset: str, overrides: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what a fit that follows the picture's (width, height) changes in the pipeline."""
    if fit == "release":
        if given := sorted({"geometry.width", "geometry.height"} & overrides.keys()):
            raise RequestError(
                f"The fit release makes the size itself, so {' and '.join(given)} (--size) would "
                "do nothing. Leave the size out, or take crop, pad or match."
            )
        width, height = release_size(*picture)
    elif fit == "match":
        pipeline = check_pipeline(preset, overrides, with_weights=False).pipeline
        if pipeline is None:
            return {}  # loading says what is wrong
        width, height = matching_size(*picture, pipeline.geometry)
    else:
        return {}
    return {"geometry.width": width, "geometry.height": height}
