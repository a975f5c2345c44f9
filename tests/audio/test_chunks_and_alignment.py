"""Chunks of exact size, and which samples belong to which frame."""

import numpy as np
import pytest
from af_audio import AudioError, Chunker, Resampler, frame_of_sample, frames_for, samples_of_frame
from hypothesis import given, settings
from hypothesis import strategies as st

CUTS = st.lists(st.integers(0, 3_000), max_size=12)


def cut(samples, sizes):
    """Cut samples into pieces of the given sizes; the rest is the last piece."""
    return np.split(samples, np.clip(np.cumsum(sizes), 0, len(samples)).astype(int))


@settings(max_examples=50, deadline=None)
@given(size=st.integers(1, 900), sizes=CUTS, total=st.integers(0, 4_000))
def test_a_chunker_hands_out_all_samples_in_order_in_exact_sizes(size, sizes, total):
    samples = np.arange(total, dtype=np.float32)
    chunker = Chunker(size)
    state, out = chunker.open(), []
    for piece in cut(samples, sizes):
        chunks, state = chunker.step(state, piece)
        assert chunks.shape[1] == size
        out += list(chunks)
    rest, _ = chunker.flush(state)
    assert len(rest) == total % size
    assert np.array_equal(np.concatenate([*out, rest]), samples)


def test_an_old_chunker_state_can_be_used_again():
    chunker = Chunker(4)
    _, state = chunker.step(chunker.open(), np.arange(3, dtype=np.float32))
    one, _ = chunker.step(state, np.float32([7]))
    two, _ = chunker.step(state, np.float32([9]))
    assert one.tolist() == [[0, 1, 2, 7]] and two.tolist() == [[0, 1, 2, 9]]


def test_a_chunk_of_no_samples_is_refused():
    with pytest.raises(AudioError, match="at least one sample"):
        Chunker(0)


@pytest.mark.parametrize("rate", [8_000, 11_025, 16_000, 22_050, 44_100, 48_000])
def test_frames_tile_the_samples_without_gap_overlap_or_drift(rate):
    ranges = [samples_of_frame(frame, rate) for frame in range(3 * 25)]
    assert [i for r in ranges for i in r] == list(range(3 * rate))
    owner = [frame_of_sample(i, rate) for i in range(3 * rate)]
    assert owner == [frame for frame, r in enumerate(ranges) for _ in r]


@given(st.integers(0, 10_000_000))
def test_frames_for_is_the_rounded_up_number_of_40_ms(num_samples):
    frames = frames_for(num_samples)
    assert 640 * (frames - 1) < num_samples <= 640 * frames or num_samples == frames == 0


@settings(max_examples=25, deadline=None)
@given(rate=st.sampled_from([8_000, 16_000, 22_050, 44_100, 48_000, 96_000]), sizes=CUTS)
def test_resampling_does_not_depend_on_how_the_audio_was_cut(rate, sizes):
    samples = np.random.default_rng(0).standard_normal((1, 9_000)).astype(np.float32)
    whole, pieces = Resampler(rate), Resampler(rate)
    expected = np.concatenate([whole.step(samples), whole.flush()], 1)
    parts = [pieces.step(part[None]) for part in cut(samples[0], sizes)]
    assert np.array_equal(np.concatenate([*parts, pieces.flush()], 1), expected)
    assert abs(expected.shape[1] - 9_000 * 16_000 / rate) <= 1


@pytest.mark.parametrize("rate", [8_000, 44_100, 96_000])
def test_a_tone_keeps_its_pitch_level_and_place_when_resampled(rate):
    seconds = np.arange(rate) / rate
    tone = (0.5 * np.sin(2 * np.pi * 440 * seconds))[None].astype(np.float32)
    resampler = Resampler(rate)
    out = np.concatenate([resampler.step(tone), resampler.flush()], 1)[0]
    expected = 0.5 * np.sin(2 * np.pi * 440 * np.arange(16_000) / 16_000)
    assert np.abs(out - expected)[500:-500].max() < 1e-3


def test_a_senseless_sample_rate_is_refused():
    with pytest.raises(AudioError, match="makes no sense"):
        Resampler(3)
