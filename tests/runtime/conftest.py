"""Fixtures of the runtime's tests: an avatar whose frames can be read back, and sounds for it."""

import attrs
import numpy as np
import pytest
import torch
from af_core.geometry import AUDIO_HZ, SAMPLES_PER_FRAME
from bar_avatar import SIDE, BarRunner, make_avatar
from PIL import Image


@pytest.fixture(autouse=True)
def threads_as_before():
    """Commands that run in this process set torch's threads for all that comes after."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def bar_avatar():
    return make_avatar()


@pytest.fixture
def breaking_avatar():
    return make_avatar(BarRunner(fail_after=3))


@pytest.fixture
def portrait_file(tmp_path):
    path = tmp_path / "face.png"
    Image.new("RGB", (SIDE, SIDE), (200, 160, 120)).save(path)
    return path


@attrs.frozen
class Clicks:
    """A sound of clicks, and the video frames in which they sound."""

    samples: np.ndarray
    frames: list[int]


@pytest.fixture
def clicks():
    frames = list(range(7, 120, 25))
    samples = np.zeros(AUDIO_HZ * 5 - 100, np.float32)
    for frame in frames:
        start = frame * SAMPLES_PER_FRAME + 280
        samples[start : start + 80] = 0.9
    return Clicks(samples, frames)
