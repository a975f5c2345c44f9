"""Integers of space and time, and noise that depends on nothing but its key."""

import math
import subprocess
import sys

import af_core.geometry as geo
import pytest
import torch
from af_core.errors import ConfigError, GeometryError
from af_core.geometry import Geometry
from af_core.noise import CounterNoise, RecordedNoise
from hypothesis import given
from hypothesis import strategies as st

sizes = st.builds(
    lambda h, w, b, s, p: Geometry(h * s * p, w * s * p, b, s, p),
    st.integers(1, 60), st.integers(1, 60), st.integers(1, 8),
    st.sampled_from([4, 8, 16]), st.sampled_from([1, 2, 4]),
)  # fmt: skip


def test_the_published_sizes():
    g = Geometry(480, 832)
    assert (g.tokens_per_latent, g.tokens_per_block, g.frames_per_block) == (1560, 6240, 16)
    assert (g.block_ms, g.samples_per_block, g.lookahead_frames(4)) == (640, 10_240, 48)
    small = Geometry(256, 256, 1, 16, 4)
    assert (small.tokens_per_latent, small.block_ms, small.lookahead_frames(4)) == (16, 160, 12)


@given(sizes)
def test_tokens_tile_the_picture(g):
    assert g.tokens_per_latent * g.pixels_per_token**2 == g.height * g.width
    assert g.latent_height * g.spatial_stride == g.height
    assert g.samples_per_block * 1000 == g.block_ms * geo.AUDIO_HZ


@given(sizes, st.integers(0, 10**7))
def test_every_frame_is_in_exactly_its_block(g, frame):
    block = g.block_of_frame(frame)
    assert frame in g.frames_of_block(block)
    assert g.frames_of_block(block).stop == g.frames_of_block(block + 1).start
    assert g.num_blocks(frame + 1) == block + 1


@given(sizes, st.integers(0, 10**6))
def test_the_latents_of_a_block_show_the_frames_of_the_block(g, block):
    shown = [f for latent in g.latents_of_block(block) for f in geo.frames_of_latent(latent)]
    assert shown == list(g.frames_of_block(block))


@given(st.integers(1, 10**6))
def test_latents_and_video_frames_count_each_other(latents):
    frames = geo.num_video_frames(latents)
    assert geo.num_latents(frames) == latents
    assert geo.num_latents(frames + 1) == latents + 1


@given(st.integers(0, 10**9))
def test_a_last_partial_frame_counts(samples):
    frames = geo.num_frames(samples)
    assert (frames - 1) * 640 < samples <= frames * 640 or samples == frames == 0


def test_sizes_that_do_not_fit_name_one_that_does():
    with pytest.raises(GeometryError, match=r"830x481.*16x16.*832x480 would do"):
        Geometry(481, 830)
    with pytest.raises(GeometryError, match="block_latents"):
        Geometry(480, 832, 0)
    with pytest.raises(GeometryError, match="first that does is 1"):
        geo.frames_of_latent(0)


def test_geometry_needs_no_torch():
    code = "import sys, af_core.geometry; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


SHAPE = (2, 3, 4, 5)
NOISE = CounterNoise()


def test_noise_depends_on_seed_block_and_rung_and_on_nothing_else():
    drawn = {
        key: NOISE.draw((key[0],), key[1], key[2], SHAPE)
        for key in [
            (0, 0, 0),
            (1, 0, 0),
            (0, 1, 0),
            (0, 0, 1),
            (-1, 0, 0),
            (2**40, 7, 3),
            (2**63 + 5, 0, 0),
            (2**63 + 6, 0, 0),
            (0, 0, -1),
            (0, 0, -2),
            (0, 2, -1),
        ]
    }
    assert len({tuple(z.flatten().tolist()) for z in drawn.values()}) == len(drawn)
    together = NOISE.draw((1, 0, -1), 0, 0, SHAPE)
    for i, seed in enumerate((1, 0, -1)):
        assert torch.equal(together[i], drawn[seed, 0, 0][0])


def test_noise_is_standard_normal_and_independent_between_keys():
    z = NOISE.draw((0, 1), 5, 2, (100_001,)).double()
    for stream in z:
        assert abs(stream.mean()) < 0.015
        assert abs(stream.std() - 1) < 0.01
        assert abs((stream**4).mean() - 3) < 0.1
        assert abs((stream.abs() < 0.6744898).double().mean() - 0.5) < 0.01
    for other in (
        z[1],
        NOISE.draw((0,), 6, 2, (100_001,))[0],
        NOISE.draw((0,), 5, 1, (100_001,))[0],
    ):
        assert abs((z[0] * other).mean()) < 0.015
    assert abs((z[0, 1:] * z[0, :-1]).mean()) < 0.015


def philox(counter, key):
    """Philox4x64-10 of Salmon et al. (2011), in whole numbers."""
    mask = 2**64 - 1
    for _ in range(10):
        left, right = 0xD2E7470EE14C6C93 * counter[0], 0xCA5A826395121157 * counter[2]
        counter = [
            (right >> 64) ^ counter[1] ^ key[0], right & mask,
            (left >> 64) ^ counter[3] ^ key[1], left & mask,
        ]  # fmt: skip
        key = [(key[0] + 0x9E3779B97F4A7C15) & mask, (key[1] + 0xBB67AE8584CAA73B) & mask]
    return counter


def test_noise_is_philox_bits_through_box_and_muller():
    seed, block, rung = 42, 3, 1
    words = philox([1, block, rung, 0], [seed ^ 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9])
    radius = [math.sqrt(-2 * math.log(((w >> 40) + 0.5) / 2**24)) for w in words]
    angle = [2 * math.pi * (w % 2**24) / 2**24 for w in words]
    wanted = [r * math.cos(a) for r, a in zip(radius, angle, strict=True)]
    wanted += [r * math.sin(a) for r, a in zip(radius, angle, strict=True)]
    made = NOISE.draw((seed,), block, rung, (8,))[0]
    torch.testing.assert_close(made.double(), torch.tensor(wanted).double(), atol=2e-6, rtol=0)


def test_a_recording_says_what_it_lacks():
    played = RecordedNoise({(0, 1): torch.zeros(1, *SHAPE)})
    assert played.draw((9,), 0, 1, SHAPE).shape == (1, *SHAPE)
    with pytest.raises(ConfigError, match="nothing for block 1, rung 0"):
        played.draw((9,), 1, 0, SHAPE)
