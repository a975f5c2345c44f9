"""Live wav2vec 2.0: the window against a slow version, any chunks, silence, where a row is."""

import attrs
import numpy as np
import pytest
import torch
from af_audio.wav2vec2.loading import load_network
from af_audio.wav2vec2.offline import encode_clip
from af_audio.wav2vec2.statistics import Heard
from af_core.errors import ShapeError
from af_core.geometry import SAMPLES_PER_FRAME, Geometry
from af_core.pipeline import load
from af_core.plugins import BuildContext, load_catalog
from af_core.testing.conformance.audio_encoders import encoded
from af_core.testing.conformance.common import pieces, speech
from af_core.testing.strategies import chunkings
from hypothesis import given, settings
from hypothesis import strategies as st
from row_bars import row_bars_avatar
from tiny_wav2vec2 import TINY_DIM, local_model, save, tiny_checkpoint, tiny_model
from torch.nn import functional as F

GEOMETRY = Geometry(64, 64, 1)
"""Blocks of 4 video frames."""
SHORT = {"left_context_s": 0.64, "revised_frames": 12}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_checkpoint(tmp_path_factory.mktemp("tiny") / "checkpoint")


def build(folder, **options):
    config = load_catalog().get("audio_encoder", "wav2vec2").config
    return config(weights=str(folder), **(SHORT | options)).build(BuildContext(GEOMETRY))


def heard_in(encoder, samples, sizes=()):
    """Return all rows and all revisions of an utterance that is cut into these chunks."""
    state, rows, revisions = encoder.open(len(samples)), [], []
    for piece in pieces(samples, sizes):
        made, again, state = encoder.step_revising(state, piece)
        rows.append(made)
        revisions.append(again)
    made, again, _ = encoder.flush_revising(state)
    return torch.cat([*rows, made], dim=1), torch.cat([*revisions, again], dim=1)


def slow_window(model, heard, window):
    """Rows of one window, with both norms' statistics taken the long way over all that was heard.

    ``heard [n]`` and ``window [n]``, float64; the first convolution is run over everything.
    """
    model = model.double()
    mean, scale = heard.mean(), (heard.var(correction=0) + 1e-7).rsqrt()
    first = model.feature_extractor.conv_layers[0]
    norm = first.layer_norm
    over_all = first.conv(((heard - mean) * scale)[None, None])[0]
    centre, spread = over_all.mean(1), over_all.var(1, correction=0)
    x = first.conv(((window - mean) * scale)[None, None])
    x = (x - centre[:, None]) / (spread + norm.eps).sqrt()[:, None]
    x = F.gelu(x * norm.weight[:, None] + norm.bias[:, None])
    for layer in model.feature_extractor.conv_layers[1:]:
        x = layer(x)
    x, _ = model.feature_projection(x[..., ::2].transpose(1, 2))
    x = model.encoder.layer_norm(x + model.encoder.pos_conv_embed(x))
    hidden = [x]
    for layer in model.encoder.layers:
        made = layer(hidden[-1])
        hidden.append(made if torch.is_tensor(made) else made[0])
    return torch.cat([hidden[-1], *hidden], dim=-1)[0]


def slow_stream(model, samples, left, hop, right, revised):
    """Every hop's rows and revisions by slicing the whole utterance ``[n]``."""
    count = len(samples) // SAMPLES_PER_FRAME
    rows, revisions = [], []
    for start in range(0, count, hop):
        end = min(start + hop, count)
        until = min(end + right, count) * SAMPLES_PER_FRAME
        begin = max(0, start - left)
        window = samples[begin * SAMPLES_PER_FRAME : until]
        made = slow_window(model, samples[:until], window)
        rows.append(made[start - begin : end - begin])
        before = torch.zeros(revised, made.shape[1]).double()
        for k in range(1, min(revised, start) + 1):
            before[-k] = made[start - begin - k]
        revisions.append(before)
    return torch.cat(rows), torch.stack(revisions)


@pytest.mark.parametrize(
    ("hop", "right", "revised"), [(4, 0, 12), (4, 3, 12), (3, 0, 5), (5, 8, 0), (1, 0, 2)]
)
def test_each_hop_is_one_window_whose_norms_know_all_that_was_heard(hop, right, revised, folder):
    samples = speech(1, 640 * 37) * torch.linspace(0.2, 2, 640 * 37) + 0.03
    options = {"hop_frames": hop, "right_context_frames": right, "revised_frames": revised}
    rows, revisions = heard_in(build(folder, **options), samples, (1000,) * 9)
    want, again = slow_stream(tiny_model(), samples[0].double(), 16, hop, right, revised)
    assert rows.shape == (1, 37, TINY_DIM) and revisions.shape[1:] == again.shape
    assert (rows[0] - want).abs().max() < 2e-5
    assert torch.equal(revisions[0] == 0, again == 0)
    assert torch.allclose(revisions[0].double(), again, rtol=0, atol=2e-5)


def test_a_window_with_its_own_statistics_is_a_short_clip(folder):
    samples, network = speech(2, 640 * 40), load_network(str(folder))
    rows, _ = heard_in(build(folder, statistics="window"), samples)
    for start in range(0, 40, 4):
        begin = max(0, start - 16)
        clip = encode_clip(network, samples[:, 640 * begin : 640 * (start + 4)])
        assert torch.allclose(rows[:, start : start + 4], clip[:, start - begin :], atol=1e-6)


@pytest.mark.parametrize("right", [0, 5])
def test_while_the_window_reaches_back_to_the_start_the_newest_rows_are_those_of_offline(
    right, folder
):
    samples, network = speech(2, 640 * 20), load_network(str(folder))
    encoder = build(folder, right_context_frames=right, left_context_s=4.0)
    state = encoder.open(2)
    for end in range(4, 21 - right, 4):
        new = samples[:, encoder_has(state) : 640 * (end + right)]
        rows, revisions, state = encoder.step_revising(state, new)
        clip = encode_clip(network, samples[:, : 640 * (end + right)])[:, :end]
        assert torch.allclose(rows, clip[:, -4:], atol=2e-5)
        known = min(12, end - 4)
        assert torch.allclose(revisions[:, 0, 12 - known :], clip[:, -4 - known : -4], atol=2e-5)


def encoder_has(state):
    """Samples that a stream has been given."""
    return state.num_encoded + state.waiting.shape[1]


@given(data=st.data())
@settings(max_examples=30, deadline=None)
def test_any_chunks_give_the_same_rows_and_revisions_bit_for_bit(folder, data):
    num_samples = data.draw(st.integers(0, 640 * 22), label="samples")
    right = data.draw(st.sampled_from([0, 0, 3]), label="right context")
    encoder, samples = build(folder, right_context_frames=right), speech(2, num_samples)
    whole = heard_in(encoder, samples)
    cut = heard_in(encoder, samples, data.draw(chunkings(num_samples), label="chunks"))
    assert all(torch.equal(a, b) for a, b in zip(cut, whole, strict=True))


def test_plain_steps_give_the_rows_without_the_revisions(folder):
    encoder, samples = build(folder), speech(2, 640 * 21 + 5)
    state, rows = encoder.open(2), []
    for piece in pieces(samples, (700,) * 15):
        made, state = encoder.step(state, piece)
        rows.append(made)
    rows.append(encoder.flush(state)[0])
    assert torch.equal(torch.cat(rows, 1), heard_in(encoder, samples)[0])


def test_steps_return_whole_hops_and_one_revision_for_each(folder):
    encoder, state = build(folder, hop_frames=3), None
    state = encoder.open(1)
    for size in (100, 640 * 3, 640 * 7, 0, 640 * 2):
        rows, revisions, state = encoder.step_revising(state, speech(1, size))
        assert rows.shape[1] == 3 * revisions.shape[1]
        assert revisions.shape[2:] == (encoder.revised_frames, encoder.feature_dim)


@pytest.mark.parametrize("statistics", ["running", "window"])
@pytest.mark.parametrize("level", [0.0, 1e-12])
def test_silence_has_rows_of_its_own(level, statistics, folder):
    encoder = build(folder, statistics=statistics)
    quiet = level * speech(1, 640 * 12)
    rows, _ = heard_in(encoder, torch.cat([quiet, speech(1, 640 * 8), quiet], dim=1))
    assert torch.isfinite(rows).all() and rows.abs().amax(-1).min() > 0.1
    silent, _ = heard_in(encoder, torch.zeros(1, 640 * 12))
    assert torch.isfinite(silent).all() and silent.abs().amax(-1).min() > 0.1


def test_a_constant_offset_and_a_gain_do_not_change_the_rows(folder):
    encoder, samples = build(folder, variance_floor=1e-12), speech(1, 640 * 24)
    rows, _ = heard_in(encoder, samples)
    changed, _ = heard_in(encoder, 0.2 * samples + 0.1)
    assert (changed - rows).abs().max() < 2e-3


@pytest.mark.parametrize("mode", ["streaming", "offline"])
@pytest.mark.parametrize("frame", [0, 3, 4, 17, 30])
def test_a_click_is_in_the_row_of_its_own_frame_and_in_no_other(frame, mode, tmp_path):
    encoder = build(save(local_model(), tmp_path), mode=mode)
    samples = torch.zeros(1, 640 * 32)
    click = 0.8 * torch.sin(torch.arange(200) * torch.pi / 4)
    samples[:, 640 * frame + 100 : 640 * frame + 300] = click
    rows = encoded(encoder, samples)[0]
    silent = encoded(encoder, torch.zeros(1, 640))[0]
    differs = (rows - silent).abs().amax(-1)
    assert differs[frame] > 0.5
    assert differs[torch.arange(32) != frame].max() < 0.05


def test_the_memory_of_a_stream_stays_what_it_declared(folder):
    config = load_catalog().get("audio_encoder", "wav2vec2").config(weights=str(folder), **SHORT)
    encoder = config.build(BuildContext(GEOMETRY))
    state, held = encoder.open(1), []
    for _ in range(40):
        _, state = encoder.step(state, speech(1, 1000))
        tensors = [
            state.context,
            state.waiting,
            *filter(torch.is_tensor, attrs.astuple(state.heard)),
        ]
        held.append(sum(t.numel() * t.element_size() for t in tensors))
    assert max(held) <= config.declare(GEOMETRY).bytes_per_stream
    storage = state.context.untyped_storage().nbytes() + state.waiting.untyped_storage().nbytes()
    assert storage < 2 * max(held)


def test_moments_of_a_long_stream_do_not_drift():
    samples = np.random.default_rng(0).normal(0.01, 0.1, (1, 640 * 2000)).astype(np.float32)
    heard = Heard.nothing(1, 10, torch.device("cpu"))
    for piece in torch.from_numpy(samples).split(640, dim=1):
        heard = heard.hearing(piece, 5)
    exact = samples[0].astype(np.float64)
    taps = np.lib.stride_tricks.sliding_window_view(exact, 10)[::5]
    assert (heard.num_samples, heard.num_taps) == (len(exact), len(taps))
    assert float(heard.mean) == pytest.approx(exact.mean(), rel=1e-12)
    assert float(heard.variance) == pytest.approx(exact.var(), rel=1e-12)
    assert np.allclose(heard.taps[0], taps.mean(0), rtol=1e-12)
    assert np.allclose(heard.products[0], taps.T @ taps / len(taps), rtol=1e-11)


def test_samples_of_another_number_of_streams_are_refused(folder):
    encoder = build(folder)
    with pytest.raises(ShapeError, match=r"\[2, n\]"):
        encoder.step(encoder.open(2), torch.zeros(1, 640))


@pytest.mark.parametrize("options", [{}, {"right_context_frames": 2, "hop_frames": 1}], ids=str)
@pytest.mark.af_conformance("audio_encoder")
def test_live_wav2vec2_passes_the_kit(af_check, options, folder):
    af_check(lambda: build(folder, **options))


@pytest.mark.parametrize("mode", ["streaming", "offline"])
def test_an_avatar_hears_with_it_and_its_video_does_not_depend_on_the_cut(mode, folder):
    avatar = row_bars_avatar(build(folder, mode=mode))
    portrait = torch.zeros(avatar.info.height, avatar.info.width, 3, dtype=torch.uint8)
    samples = speech(1, 640 * 27 + 77)[0]
    whole = torch.cat(list(avatar.stream(portrait, [samples])), 1)
    cut = torch.cat(list(avatar.stream(portrait, samples.split(900))), 1)
    assert whole.shape[1] == 28 and torch.equal(cut, whole)
    assert len(whole[0].flatten(1).unique(dim=0)) > 10


def test_the_engine_drives_the_window_by_the_revisions_however_audio_is_cut(folder):
    def video(revised, sizes):
        stage = {"use": "wav2vec2", "weights": str(folder), **SHORT, "revised_frames": revised}
        shown = {"denoiser.attention": "sdpa", "decoder.still": 0.0}
        avatar = load("toon", {"audio_encoder": stage, **shown})
        portrait = torch.full((avatar.info.height, avatar.info.width, 3), 128).byte()
        chunks = [piece[0] for piece in pieces(speech(1, 640 * 27 + 77), sizes)]
        return torch.cat(list(avatar.stream(portrait, chunks)), 1)

    whole = video(12, ())
    assert whole.shape[1] == 28 and torch.equal(video(12, (900,) * 15), whole)
    assert not torch.equal(video(0, ()), whole)
