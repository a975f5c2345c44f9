"""Drawings pass as drawings; photos and noise do not."""

import io

import numpy as np
import pytest
import torch
from af_runtime.domain import MIN_FLAT_SHARE, domain_warning, flat_share
from PIL import Image, ImageDraw, ImageFilter


def drawing(seed=0, size=256):
    """Return a flat face with shaded skin, in antialiased outlines."""
    rng = np.random.default_rng(seed)
    colours = [tuple(rng.integers(0, 256, 3).tolist()) for _ in range(6)]
    large = Image.new("RGB", (4 * size, 4 * size), colours[0])
    draw = ImageDraw.Draw(large)
    for i, box in enumerate([(20, 20, 80, 95), (30, 30, 70, 80), (38, 45, 46, 53)]):
        draw.ellipse([4 * size * v // 100 for v in box], fill=colours[i + 1])
    draw.rounded_rectangle([4 * size * v // 100 for v in (40, 65, 60, 70)], 30, fill=colours[4])
    return large.resize((size, size), Image.Resampling.LANCZOS)


def photo(seed=0, size=256):
    """Return what photos are made of: smooth shading at all scales, and sensor noise."""
    rng = np.random.default_rng(seed)
    image = np.zeros((size, size, 3))
    for scale in (4, 16, 64):
        blotches = rng.normal(0, 18, (scale, scale, 3))
        upright = Image.fromarray(np.clip(blotches + 128, 0, 255).astype(np.uint8))
        image += np.asarray(upright.resize((size, size), Image.Resampling.BICUBIC), float) - 128
    noise = rng.normal(0, 2, image.shape)
    return Image.fromarray(np.clip(image + 128 + noise, 0, 255).astype(np.uint8))


def tensor(image):
    return torch.from_numpy(np.array(image))


def as_jpeg(image, quality):
    data = io.BytesIO()
    image.save(data, "JPEG", quality=quality)
    return Image.open(data).convert("RGB")


@pytest.mark.parametrize("seed", range(4))
def test_drawings_are_told_from_photos_with_room_to_spare(seed):
    assert flat_share(tensor(drawing(seed))) > 2 * MIN_FLAT_SHARE
    assert flat_share(tensor(as_jpeg(drawing(seed), 75))) > MIN_FLAT_SHARE
    assert flat_share(tensor(photo(seed))) < MIN_FLAT_SHARE / 2


def test_a_slightly_blurred_photo_is_still_a_photo():
    image = photo().filter(ImageFilter.GaussianBlur(1))
    assert flat_share(tensor(image)) < MIN_FLAT_SHARE


def test_flat_share_counts_pixels_like_their_left_and_upper_neighbours():
    image = np.zeros((5, 5, 3), np.uint8)
    image[2, 2] = 1
    assert flat_share(torch.from_numpy(image)) == pytest.approx(13 / 16)


def test_the_warning_names_the_preset_for_photos_and_only_speaks_for_limited_presets():
    warning = domain_warning(tensor(photo()), "toon")
    assert warning is not None and "avatarforcing-1.3b" in warning
    assert domain_warning(tensor(drawing()), "toon") is None
    assert domain_warning(tensor(photo()), "avatarforcing-1.3b") is None
