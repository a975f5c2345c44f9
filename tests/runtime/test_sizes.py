"""Sizes that follow the portrait."""

import af_core
import pytest
import torch
from af_core.geometry import Geometry
from af_runtime.errors import RequestError
from af_runtime.generation import generate
from af_runtime.portrait import fit_portrait
from af_runtime.sizes import matching_size, parse_size, release_size, size_overrides
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

WAN = Geometry(480, 832)
SIDES = st.integers(16, 8_000)


@pytest.mark.parametrize(
    ("picture", "size"),
    [((960, 960), (624, 624)), ((1920, 1080), (832, 464)), ((832, 480), (832, 480)),
     ((300, 200), (288, 192)), ((16, 4_000), (16, 4_000 // 16 * 16))],
)  # fmt: skip
def test_the_releases_rule_gives_the_releases_sizes(picture, size):
    assert release_size(*picture) == size


@given(width=SIDES, height=SIDES)
def test_sizes_are_of_whole_tokens_and_of_bounded_area(width, height):
    for wide, high in (release_size(width, height), matching_size(width, height, WAN)):
        assert wide % 16 == 0 and high % 16 == 0 and min(wide, high) >= 16
    wide, high = release_size(width, height)
    assert wide * high <= max(832 * 480, 16 * max(wide, high))


@given(width=st.integers(200, 4_000), height=st.integers(200, 4_000))
def test_a_matching_size_keeps_shape_and_area_up_to_a_token(width, height):
    wide, high = matching_size(width, height, WAN)
    across = (832 * 480 * width / height) ** 0.5
    assert abs(wide - across) <= 8 and abs(high - 832 * 480 / across) <= 8


@pytest.mark.parametrize("text", ["832", "832x", "axb", "832x480x3", "-832x480", ""])
def test_a_size_that_is_none_is_refused(text):
    with pytest.raises(RequestError, match="832x480"):
        parse_size(text)


def test_sizes_are_read():
    assert parse_size("832x480") == parse_size(" 832 X 480 ") == (832, 480)


def test_the_release_bends_a_picture_and_cuts_nothing():
    picture = Image.new("RGB", (100, 50))
    picture.paste((255, 0, 0), (95, 0, 100, 50))
    made = fit_portrait(picture, 64, 48, "release")
    assert made.shape == (48, 64, 3)
    assert (made[:, -2:, 0] > 200).all() and (made[:, :50] == 0).all()


def test_a_loaded_avatar_of_another_size_is_named(tmp_path):
    avatar = af_core.load("toon")
    picture = tmp_path / "tall.png"
    Image.new("RGB", (200, 400), (90, 120, 200)).save(picture)
    speech = tmp_path / "speech.wav"
    _write_silence(speech)
    with pytest.raises(RequestError, match="192x400 pixels and the loaded avatar draws 128x128"):
        generate(picture, speech, tmp_path / "out.mp4", avatar=avatar, fit="release")
    assert not (tmp_path / "out.mp4").exists()


def test_the_releases_fit_and_a_size_of_ones_own_exclude_each_other():
    for key in ("geometry.width", "geometry.height"):
        with pytest.raises(RequestError, match=f"{key}.*would do nothing"):
            size_overrides((960, 960), "release", "toon", {key: 64})
    made = size_overrides((960, 960), "release", "toon", {"geometry.block_latents": 2})
    assert made == {"geometry.width": 624, "geometry.height": 624}


def _write_silence(path):
    import wave

    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes(bytes(torch.zeros(3_200, dtype=torch.int16).numpy().tobytes()))
