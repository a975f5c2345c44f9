"""The decoder that softens the border between latents."""

from importlib.resources import files

import attrs
import pytest
import torch
from af_audio.io import read_speech
from af_core.decoders.soft_borders import SoftBorders
from af_core.decoders.still import StillDecoder
from af_core.errors import PipelineError
from af_core.graph import open_pipeline
from af_core.pipeline import load
from af_core.stages.decoder import SeesPortrait
from af_runtime.portrait import load_portrait
from hypothesis import given, settings
from hypothesis import strategies as st
from workspace import ROOT

GALLERY = files("af_core") / "presets" / "toon" / "gallery"
SHARE = 0.4


class Player:
    """Shows frames made before: the first of its latents stands for 1, every other for 4."""

    def __init__(self, frames):
        self.frames = frames

    def open(self, num_streams):
        return 0

    def step(self, state, latents):
        count = 4 * latents.shape[1] - (3 if state == 0 else 0)
        return self.frames[:, state : state + count], state + count


def film(num_latents, seed=0):
    shape = (2, 4 * num_latents - 3, 6, 8, 3)
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, shape, generator=generator).to(torch.uint8)


def softened_slowly(frames):
    """The slow and obvious version: frame by frame, pixel by pixel, in Python's numbers."""
    made = frames.clone()
    for i in range(1, frames.shape[1], 4):
        around = (frames[:, i - 1].double() + frames[:, i + 1].double()) / 2
        exact = (1 - SHARE) * frames[:, i].double() + SHARE * around
        made[:, i] = (exact.float().round()).to(torch.uint8)
    return made


@settings(max_examples=30, deadline=None)
@given(cuts=st.lists(st.integers(1, 4), min_size=1, max_size=6), seed=st.integers(0, 99))
def test_any_cut_gives_the_frames_of_the_slow_version(cuts, seed):
    frames = film(sum(cuts), seed)
    decoder, before = SoftBorders(Player(frames), SHARE), frames.clone()
    state, parts = decoder.open(2), []
    for count in cuts:
        part, state = decoder.step(state, torch.zeros(2, count, 1, 1, 1))
        parts.append(part)
    made = torch.cat(parts, 1)
    slow = softened_slowly(frames)[:, : made.shape[1]]
    assert torch.equal(made, slow)
    assert torch.equal(frames, before)
    others = [i for i in range(made.shape[1]) if i % 4 != 1]
    assert torch.equal(made[:, others], frames[:, others])


def test_a_jump_between_latents_shrinks_by_half_the_share():
    frames = torch.full((1, 9, 4, 4, 3), 100, dtype=torch.uint8)
    frames[:, 5:] = 200  # a jump between the second latent and the third
    decoder = SoftBorders(Player(frames), SHARE)
    made, _ = decoder.step(decoder.open(1), torch.zeros(1, 3, 1, 1, 1))
    assert made[0, :, 0, 0, 0].tolist() == [100] * 5 + [180] + [200] * 3


def test_it_shows_the_portrait_to_a_decoder_that_wants_to_see_it_and_to_no_other():
    frames, portraits = film(3), film(1)[:, 0]
    latents = torch.zeros(2, 3, 1, 1, 1)
    plain = SoftBorders(Player(frames), SHARE)
    made, _ = plain.step(plain.open_seeing(portraits), latents)
    alone, _ = plain.step(plain.open(2), latents)
    assert torch.equal(made, alone)
    seeing = SoftBorders(StillDecoder(Player(frames), 0.05), SHARE)
    shown, _ = seeing.step(seeing.open_seeing(portraits), latents)
    assert torch.equal(shown[:, 0], portraits)


def test_the_embedded_avatar_changes_less_between_latents_and_no_more_inside():
    portrait = load_portrait(GALLERY / "ava.png", width=128, height=128)
    speech = read_speech(ROOT / "examples" / "assets" / "speech.wav")[:48_000]

    def changes(share):
        avatar = load("toon", {"decoder.soft_borders": share})
        frames = torch.cat([*avatar.stream(portrait, [speech])], 1)[0].float()
        change = (frames[1:] - frames[:-1]).abs().mean((1, 2, 3))
        return [float(change[i::4].mean()) for i in range(4)]

    hard, soft = changes(0.0), changes(SHARE)
    assert soft[3] < 0.95 * hard[3]
    assert soft[0] < hard[0]
    assert soft[1:3] == pytest.approx(hard[1:3], rel=1e-3)


@pytest.mark.parametrize("share", [-0.1, 1.5])
def test_a_share_that_is_none_is_refused(share):
    with pytest.raises(PipelineError, match="from 0 to 1"):
        load("toon", {"decoder.soft_borders": share})


@pytest.mark.parametrize(("still", "share"), [(0.0, 0.0), (0.05, 0.0), (0.0, 0.4), (0.05, 0.4)])
def test_what_is_declared_to_be_kept_of_a_stream_is_kept(still, share):
    settings = {"decoder.still": still, "decoder.soft_borders": share}
    pipeline = open_pipeline("toon", settings)
    declared = pipeline.stages["decoder"].config.declare(pipeline.geometry).bytes_per_stream
    decoder = load("toon", settings).runners["decoder"].decoder
    portraits = torch.zeros(1, 128, 128, 3, dtype=torch.uint8)
    sees = isinstance(decoder, SeesPortrait)
    state = decoder.open_seeing(portraits) if sees else decoder.open(1)
    _, state = decoder.step(state, torch.zeros(1, 2, 64, 16, 16))
    assert sum(one.nbytes for one in tensors_of(state)) == declared


def tensors_of(value):
    """Return all tensors in a state."""
    if isinstance(value, torch.Tensor):
        return [value]
    if attrs.has(type(value)):
        value = [getattr(value, field.name) for field in attrs.fields(type(value))]
    return [t for one in value for t in tensors_of(one)] if isinstance(value, list | tuple) else []
