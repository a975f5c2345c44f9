"""Any picture becomes an upright, undistorted RGB portrait, or one clear message."""

import io

import numpy as np
import pytest
import torch
from af_core.errors import AvatarForcingError
from af_runtime.errors import PortraitError, RequestError
from af_runtime.gallery import find_portrait
from af_runtime.portrait import MAX_PIXELS, load_portrait
from PIL import Image, ImageCms

RED, GREEN, BLUE, WHITE = (220, 30, 40), (20, 180, 60), (30, 50, 210), (255, 255, 255)


def quarters(size=(64, 64), colours=(RED, GREEN, BLUE, WHITE)):
    """Return a picture of four coloured quarters: top left, top right, bottom left and right."""
    width, height = size
    pixels = np.zeros((height, width, 3), np.uint8)
    for i, colour in enumerate(colours):
        rows = slice(0, height // 2) if i < 2 else slice(height // 2, None)
        columns = slice(0, width // 2) if i % 2 == 0 else slice(width // 2, None)
        pixels[rows, columns] = colour
    return Image.fromarray(pixels)


def corners(portrait, inset=4):
    """Return the colours near the four corners, in the order of `quarters`."""
    height, width, _ = portrait.shape
    places = [(y, x) for y in (inset, height - 1 - inset) for x in (inset, width - 1 - inset)]
    return [tuple(portrait[y, x].tolist()) for y, x in places]


def near(one, other, by=8):
    return np.abs(np.asarray(one).astype(int) - np.asarray(other).astype(int)).max() <= by


def load(path, width=64, height=64, **options):
    return load_portrait(path, width=width, height=height, **options)


def saved(tmp_path, image, name, **options):
    path = tmp_path / name
    image.save(path, **options)
    return path


def test_a_picture_of_the_right_size_is_passed_on_bit_for_bit(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    portrait = load(saved(tmp_path, Image.fromarray(pixels), "a.png"))
    assert portrait.dtype == torch.uint8
    assert np.array_equal(portrait.numpy(), pixels)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.bmp", "a.gif"])
def test_every_format_keeps_its_colours(name, tmp_path):
    portrait = load(saved(tmp_path, quarters((200, 200)), name))
    assert near(corners(portrait), (RED, GREEN, BLUE, WHITE), 14)


@pytest.mark.parametrize(
    ("orientation", "order"),
    [(1, (0, 1, 2, 3)), (3, (3, 2, 1, 0)), (6, (2, 0, 3, 1)), (8, (1, 3, 0, 2)), (2, (1, 0, 3, 2))],
)
def test_exif_rotation_is_applied(orientation, order, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path, quarters((120, 120)), "a.jpg", exif=exif, quality=95)
    colours = (RED, GREEN, BLUE, WHITE)
    assert near(corners(load(path)), [colours[i] for i in order], 14)


def test_transparency_is_laid_on_the_background(tmp_path):
    image = Image.new("RGBA", (64, 64), (255, 0, 0, 0))
    image.paste((0, 255, 0, 128), (0, 0, 64, 32))
    portrait = load(saved(tmp_path, image, "a.png"), background="#0000ff")
    assert near(portrait[60, 32], (0, 0, 255), 1)
    assert near(portrait[10, 32], (0, 128, 127), 1)


def test_transparency_is_neutral_grey_by_default(tmp_path):
    portrait = load(saved(tmp_path, Image.new("RGBA", (64, 64), (0, 0, 0, 0)), "a.png"))
    assert near(portrait[0, 0], (232, 234, 237), 0)


def test_a_palette_with_a_transparent_colour_is_understood(tmp_path):
    image = Image.new("P", (64, 64), 1)
    image.putpalette([255, 0, 0, 0, 200, 0])
    image.paste(0, (0, 0, 32, 64))
    portrait = load(saved(tmp_path, image, "a.png", transparency=0), background="white")
    assert near(portrait[32, 8], WHITE, 0) and near(portrait[32, 56], (0, 200, 0), 0)


@pytest.mark.parametrize("mode", ["L", "LA", "1", "CMYK", "P"])
def test_every_colour_mode_becomes_rgb(mode, tmp_path):
    image = Image.new("RGB", (64, 64), WHITE)
    image.paste((0, 0, 0), (0, 0, 32, 64))
    path = saved(tmp_path, image.convert(mode), "a.jpg" if mode == "CMYK" else "a.png")
    portrait = load(path)
    assert near(portrait[32, 8], (0, 0, 0), 6) and near(portrait[32, 56], WHITE, 6)


def test_sixteen_bits_are_scaled_not_clipped(tmp_path):
    ramp = np.linspace(0, 65_535, 64).astype(np.uint16)[None].repeat(64, 0)
    path = saved(tmp_path, Image.fromarray(ramp), "a.png")
    assert near(load(path)[10, :, 0], np.rint(ramp[10] / 257), 1)


def test_a_colour_profile_is_converted_to_srgb(tmp_path):
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    path = saved(tmp_path, quarters(), "a.png", icc_profile=lab)
    assert near(corners(load(path)), (RED, GREEN, BLUE, WHITE), 2)
    broken = saved(tmp_path, quarters(), "b.png", icc_profile=b"no profile at all")
    assert near(corners(load(broken)), (RED, GREEN, BLUE, WHITE), 0)


def test_crop_fills_the_frame_and_keeps_circles_round(tmp_path):
    image = Image.new("RGB", (400, 200), WHITE)
    image.paste((0, 0, 0), (150, 50, 250, 150))
    dark = load(saved(tmp_path, image, "a.png"))[..., 0] < 128
    assert dark.any(0).sum() == dark.any(1).sum() == 32


def test_pad_shows_everything_on_the_background(tmp_path):
    image = Image.new("RGB", (400, 200), (0, 0, 0))
    portrait = load(saved(tmp_path, image, "a.png"), fit="pad", background="white")
    dark = portrait[..., 0] < 128
    assert dark.any(0).sum() == 64 and dark.any(1).sum() == 32
    assert near(portrait[2, 32], WHITE, 0)


def test_a_tall_crop_keeps_what_is_above_the_middle(tmp_path):
    image = Image.new("RGB", (100, 300), WHITE)
    image.paste((0, 0, 0), (0, 80, 100, 180))
    dark = load(saved(tmp_path, image, "a.png"))[..., 0] < 128
    assert dark.float().mean() > 0.95


def test_a_picture_20000_pixels_wide_works(tmp_path):
    path = saved(tmp_path, Image.new("RGB", (20_000, 400), GREEN), "wide.png")
    assert near(load(path)[32, 32], GREEN, 0)


BAD = {
    "missing": (lambda p: p, "no portrait file"),
    "empty": (lambda p: p.write_bytes(b""), "is empty"),
    "text": (lambda p: p.write_text("hello"), "not a picture"),
    "one_pixel_wide": (lambda p: Image.new("RGB", (1, 300)).save(p, "PNG"), "1x300 pixels"),
    "too_many_pixels": (
        lambda p: Image.new("1", (20_000, MAX_PIXELS // 20_000 + 1)).save(p, "PNG"),
        "million at most",
    ),
    "truncated_png": (lambda p: cut(p, "PNG"), "cut short"),
    "truncated_jpeg": (lambda p: cut(p, "JPEG"), "cut short"),
    "truncated_webp": (lambda p: cut(p, "WEBP"), "cut short|not a picture"),
    "folder": (lambda p: p.mkdir(), "not a file"),
}


def cut(path, format):
    data = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (90, 90, 3), np.uint8)
    Image.fromarray(pixels).save(data, format)
    path.write_bytes(data.getvalue()[: len(data.getvalue()) // 2])


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_portrait_is_refused_with_one_message(case, tmp_path):
    make, message = BAD[case]
    path = tmp_path / "portrait.png"
    make(path)
    with pytest.raises(PortraitError, match=message) as caught:
        load(path)
    assert str(path) in str(caught.value)


def test_a_bomb_is_refused_before_it_is_decoded(tmp_path):
    path = saved(tmp_path, Image.new("1", (30_000, 30_000)), "bomb.png")
    with pytest.raises(PortraitError, match="pixels"):
        load(path)


def test_a_wrong_colour_or_fit_says_what_would_work(tmp_path):
    path = saved(tmp_path, quarters(), "a.png")
    with pytest.raises(RequestError, match="#rrggbb"):
        load(path, background="bluish")
    with pytest.raises(RequestError, match="crop"):
        load(path, 32, 32, fit="stretch")


def test_an_unknown_portrait_name_lists_the_shipped_ones(monkeypatch, tmp_path):
    shipped = {name: tmp_path / f"{name}.png" for name in ("ada", "ben", "chidi")}
    monkeypatch.setattr("af_runtime.gallery._pictures", lambda preset: shipped)
    assert find_portrait("ben") == shipped["ben"]
    with pytest.raises(AvatarForcingError, match=r"mean 'chidi'.*ada, ben, chidi"):
        find_portrait("chidy")
    with pytest.raises(AvatarForcingError, match="no portrait file"):
        find_portrait("chidy.png")
