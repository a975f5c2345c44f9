"""Blocks that run ahead of the speech, and speech that is heard better later."""

import attrs
import pytest
import tiny_wan as tiny
import torch
from af_core.errors import ConfigError, PipelineError, StageContractError, StreamEndedError
from af_core.geometry import Geometry
from af_core.pipeline import load
from af_core.running import DenoiseRunner, Opening
from af_core.windows.config import LocalFutureConfig
from af_core.windows.local_future import LocalFutureScheduler
from hypothesis import given, settings
from hypothesis import strategies as st

MODEL = tiny.make()
FACE = tiny.portrait()


def ahead(unheard, slots=4, passes=1, block=1, fused=True):
    return attrs.evolve(tiny.streamer(MODEL, slots, passes, block, fused), unheard=unheard)


def close(made, wanted):
    torch.testing.assert_close(made.double(), wanted.double(), atol=2e-5, rtol=0)


@pytest.mark.parametrize(
    ("unheard", "slots", "passes", "block"),
    [(1, 4, 1, 1), (2, 4, 1, 2), (3, 4, 1, 1), (1, 2, 2, 1), (2, 3, 2, 1)],
)
def test_blocks_that_enter_unheard_equal_the_oracle(unheard, slots, passes, block):
    engine = ahead(unheard, slots, passes, block)
    rows = tiny.speech(5, block)
    made, _ = tiny.run(engine, rows, FACE, seeds=(5,))
    assert made.shape[1] == 5
    close(made[0], tiny.by_oracle(engine, rows, FACE, seed=5))


@pytest.mark.parametrize("blocks", [1, 2, 3])
@pytest.mark.parametrize("unheard", [1, 3])
def test_clips_shorter_than_the_window_have_a_block_for_each_that_was_heard(blocks, unheard):
    engine = ahead(unheard)
    rows = tiny.speech(blocks)
    made, _ = tiny.run(engine, rows, FACE, seeds=(5,))
    assert made.shape[1] == blocks
    close(made[0], tiny.by_oracle(engine, rows, FACE, seed=5))


@pytest.mark.parametrize("unheard", [0, 1, 2, 3])
def test_each_unheard_block_is_a_block_of_delay_less(unheard):
    engine = ahead(unheard)
    state, steps = engine.open(FACE), 0
    block = None
    while block is None:
        block, state = engine.step(state, tiny.speech(1))
        steps += 1
    assert steps == 4 - unheard


@pytest.mark.parametrize("unheard", [0, 1, 2])
def test_better_rows_drive_the_blocks_already_in_the_window(unheard):
    engine = ahead(unheard)
    blocks, known = 6, {}

    def better(block, step):  # the rows of a block as they are heard when speech is at `heard`
        heard = min(step - unheard, blocks - 1)
        seed = 100 * block + heard
        return known.setdefault((block, heard), tiny.speech(1, seed=seed)[0].double())

    state, made = engine.open(FACE, seeds=(5,)), []
    for heard in range(blocks):
        first = max(0, heard - 3 + unheard)
        rows = torch.cat([better(k, heard + unheard) for k in range(first, heard + 1)]).float()
        block, state = engine.step(state, rows[None])
        made += [] if block is None else [block]
    while len(state.window):
        block, state = engine.step(state, None)
        made += [] if block is None else [block]
    wanted = tiny.by_oracle(engine, tiny.speech(blocks), FACE, seed=5, better=better)
    close(torch.stack(made, 1)[0], wanted)


def test_rows_of_blocks_that_have_left_are_passed_over():
    rows = tiny.speech(8)
    engine = tiny.streamer(MODEL, 2)
    state, made = engine.open(FACE), []
    for k in range(8):
        block, state = engine.step(state, rows[:, : 4 * (k + 1)])
        made += [] if block is None else [block]
    plain, _ = tiny.run(engine, rows, FACE)
    close(torch.stack(made, 1), plain[:, : len(made)])


def test_a_stream_that_ended_unheard_emits_nothing():
    engine = ahead(2)
    state = engine.open(FACE)
    assert len(state.window) == 2
    block, state = engine.step(state, None)
    assert block is None and not len(state.window)


def test_a_draining_stream_takes_no_more_speech():
    engine = ahead(1)
    state = engine.open(FACE)
    for _ in range(4):
        _, state = engine.step(state, tiny.speech(1))
    _, state = engine.step(state, None)
    with pytest.raises(StreamEndedError, match="draining"):
        engine.step(state, tiny.speech(1))


@pytest.mark.parametrize("blocks", [-1, 4])
def test_a_look_ahead_that_the_window_does_not_have_is_refused(blocks):
    schedule = tiny.streamer(MODEL).scheduler.schedule
    with pytest.raises(ConfigError, match="0 to 3 later blocks"):
        LocalFutureScheduler(schedule, LocalFutureConfig(audio_lookahead_blocks=blocks))
    with pytest.raises(PipelineError, match="0 to 3 later blocks"):
        load("toon", {"window_scheduler.audio_lookahead_blocks": blocks})


@pytest.fixture(scope="module")
def toon():
    return load("toon", {"window_scheduler.audio_lookahead_blocks": 1})


def test_the_delay_of_an_avatar_tells_its_look_ahead(toon):
    assert (toon.info.block_ms, toon.info.lookahead_ms) == (160, 160)


@settings(max_examples=5, deadline=None)
@given(cuts=st.lists(st.integers(0, 9_000), max_size=4))
def test_any_cut_of_the_speech_gives_the_same_video_with_unheard_blocks(toon, cuts):
    speech = torch.rand(7_000, generator=torch.Generator().manual_seed(0)) - 0.5
    portrait = torch.zeros(128, 128, 3, dtype=torch.uint8)
    edges = sorted(min(cut, len(speech)) for cut in cuts)
    pieces = torch.tensor_split(speech, edges)
    whole = torch.cat([*toon.stream(portrait, [speech])], 1)
    cut = torch.cat([*toon.stream(portrait, pieces)], 1)
    assert whole.shape[1] == -(-len(speech) // 640)
    assert torch.equal(whole, cut)


def _runner(block):
    geometry = Geometry(
        8 * 2 * tiny.SIDE[0], 8 * 2 * tiny.SIDE[1], block_latents=block, spatial_stride=8
    )
    return DenoiseRunner(tiny.streamer(MODEL, 3, 1, block), geometry)


def test_the_denoisers_node_gives_revised_rows_to_the_blocks_before():
    runner, rows = _runner(1), tiny.speech(5)
    better = torch.randn(1, 5, 8, tiny.AUDIO, generator=torch.Generator().manual_seed(9))
    state = runner.open(Opening(1, FACE, (0,)))
    made, state = runner.step(state, {"rows": rows[:, :8], "revisions": better[:, :2]})
    assert not made
    made, state = runner.step(state, {"rows": rows[:, 8:], "revisions": better[:, 2:]})
    stream, wanted = runner.streamer.open(FACE, seeds=(0,)), []
    for k in range(5):
        heard = torch.cat([better[:, k], rows[:, 4 * k : 4 * k + 4]], 1)
        block, stream = runner.streamer.step(stream, heard)
        wanted += [] if block is None else [block]
    assert torch.equal(made["latents"], torch.cat(wanted, 1))


@pytest.mark.parametrize(("hops", "frames"), [(2, 4), (1, 6)])
def test_revisions_that_are_not_of_whole_blocks_are_refused(hops, frames):
    runner = _runner(1)
    state = runner.open(Opening(1, FACE, (0,)))
    with pytest.raises(StageContractError, match="hop_frames=4"):
        runner.step(
            state,
            {"rows": tiny.speech(1), "revisions": torch.zeros(1, hops, frames, tiny.AUDIO)},
        )
