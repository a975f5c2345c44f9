"""The decoder that shows the portrait where nothing changes."""

import pytest
import torch
from af_core.decoders.still import StillDecoder, keep_still
from af_core.errors import PipelineError
from af_core.pipeline import load
from af_core.stages.decoder import SeesPortrait
from af_core.testing.conformance import decoders
from hypothesis import given, settings
from hypothesis import strategies as st

THRESHOLD = 0.05


class Painter:
    """Draws latents [b, f, 1, h, w] as grey, one frame the first time, then four alike."""

    def open(self, num_streams):
        return False

    def step(self, state, latents):
        frames = latents[:, :, 0, :, :, None].expand(-1, -1, -1, -1, 3)
        if state:
            return frames.repeat_interleave(4, 1).to(torch.uint8), True
        rest = frames[:, 1:].repeat_interleave(4, 1)
        return torch.cat([frames[:, :1], rest], 1).to(torch.uint8), True


def noise(*shape, seed=0):
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(seed))


def opened(portrait, drawn):
    decoder = StillDecoder(Painter(), THRESHOLD)
    first, state = decoder.step(decoder.open_seeing(portrait), drawn[:, None, None])
    return decoder, state, first


def test_the_portrait_itself_is_shown_where_the_drawing_is_that_of_the_portrait():
    portrait, drawn = noise(2, 24, 32, 3).to(torch.uint8), noise(2, 24, 32, seed=1).float()
    decoder, state, first = opened(portrait, drawn)
    assert torch.equal(first[:, 0], portrait)
    frames, _ = decoder.step(state, drawn[:, None, None])
    assert torch.equal(frames, portrait[:, None].expand(-1, 4, -1, -1, -1))


def test_what_changes_a_lot_is_shown_as_drawn_and_what_is_far_from_it_stays():
    portrait, drawn = noise(1, 64, 64, 3).to(torch.uint8), torch.full((1, 64, 64), 100.0)
    decoder, state, _ = opened(portrait, drawn)
    moved = drawn.clone()
    moved[:, 20:30, 20:30] = 200.0
    frames, _ = decoder.step(state, moved[:, None, None])
    assert (frames[:, :, 20:30, 20:30] == 200).all()
    assert torch.equal(frames[:, 0, 40:, 40:], portrait[:, 40:, 40:])


def test_the_share_of_a_uniform_change_is_the_formula():
    portrait = torch.zeros(1, 1, 16, 16, 3)
    drawn = torch.full((1, 1, 16, 16, 3), 100.0)
    for change in (2.0, 10.0, 25.5, 40.0):
        made = keep_still(drawn + change, drawn, portrait, THRESHOLD)
        square = (change / 255) ** 2
        share = min(1.0, 1.25 * square / (square + THRESHOLD**2))
        assert torch.allclose(made, torch.full_like(made, share * (100 + change)), atol=1e-3)


@settings(max_examples=20, deadline=None)
@given(cuts=st.lists(st.integers(1, 3), min_size=1, max_size=4))
def test_any_cut_into_calls_gives_the_same_frames(cuts):
    portrait, latents = noise(2, 8, 12, 3).to(torch.uint8), noise(2, 13, 1, 8, 12, seed=2).float()
    decoder = StillDecoder(Painter(), 0.3)
    whole, _ = decoder.step(decoder.open_seeing(portrait), latents)
    parts, state = [], decoder.open_seeing(portrait)
    for part in latents.split([1, *cuts, 12 - sum(cuts)] if sum(cuts) < 12 else [1, 12], 1):
        frames, state = decoder.step(state, part)
        parts.append(frames)
    assert torch.equal(torch.cat(parts, 1), whole)


def test_a_stream_whose_portrait_was_not_shown_is_drawn_as_it_is():
    decoder = StillDecoder(Painter(), THRESHOLD)
    latents = noise(1, 3, 1, 8, 8).float()
    plain, _ = Painter().step(False, latents)
    made, _ = decoder.step(decoder.open(1), latents)
    assert torch.equal(made, plain)


def test_the_embedded_decoder_sees_the_portrait_and_conforms():
    decoder = load("toon").runners["decoder"].decoder
    assert isinstance(decoder, SeesPortrait)
    for check in decoders.CHECKS:
        check(lambda: decoder, latent=(64, 16, 16))


def test_an_avatar_in_silence_shows_its_portrait_sharper_than_without():
    portrait = noise(128, 128, 3).to(torch.uint8) // 8 + 100  # no autoencoder draws noise
    silence = torch.zeros(16_000)

    def error(still):
        avatar = load("toon", {"decoder.still": still})
        frames = torch.cat([*avatar.stream(portrait, [silence])], 1)[0]
        return float((frames[:, :40].float() - portrait[:40].float()).square().mean())

    assert error(0.2) < 0.3 * error(0.0)


@pytest.mark.parametrize("still", [-0.1, 1.5])
def test_a_threshold_that_is_no_share_is_refused(still):
    with pytest.raises(PipelineError, match="from 0 to 1"):
        load("toon", {"decoder.still": still})


def test_a_table_may_be_merged_into_another_in_yaml(tmp_path):
    (tmp_path / "p.yaml").write_text(
        "extends: toon\nname: p\n"
        "window_scheduler: &w {num_slots: 2, num_passes: 2}\n"
        "nodes: {}\n"
        "geometry:\n  <<: {height: 128}\n  width: 128\n"
    )
    assert load(str(tmp_path / "p.yaml")).info.height == 128
    (tmp_path / "q.yaml").write_text("extends: toon\nname: q\nname: r\n")
    with pytest.raises(PipelineError, match="written twice"):
        load(str(tmp_path / "q.yaml"))
