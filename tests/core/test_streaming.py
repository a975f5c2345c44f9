"""The engine against the slow oracle, and the promises a stream makes."""

import itertools

import attrs
import pytest
import tiny_wan as tiny
import torch
from af_core.errors import (
    ConfigError,
    ShapeError,
    StageContractError,
    StaleStreamStateError,
    StreamEndedError,
)
from af_core.schedules.config import RectifiedFlowConfig
from af_core.schedules.rectified_flow import RectifiedFlow
from af_core.windows.causal import CausalScheduler
from af_core.windows.config import CausalConfig, LocalFutureConfig
from af_core.windows.local_future import LocalFutureScheduler

MODEL = tiny.make()
FACE = tiny.portrait()


def close(made, wanted, tolerance=2e-5):
    torch.testing.assert_close(made.double(), wanted.double(), atol=tolerance, rtol=0)


def against_oracle(engine, blocks, text=None):
    rows = tiny.speech(blocks, engine.block_latents)
    made, _ = tiny.run(engine, rows, FACE, seeds=(5,), text=text)
    assert made.shape[1] == blocks
    close(made[0], tiny.by_oracle(engine, rows, FACE, seed=5, text=text))


@pytest.mark.parametrize(
    ("slots", "passes", "block"), [*itertools.product((1, 2, 4), (1, 2), (1, 3))]
)
def test_every_L_N_B_equals_the_oracle(slots, passes, block):
    against_oracle(tiny.streamer(MODEL, slots, passes, block), 5)


@pytest.mark.parametrize("blocks", [1, 2, 3, 4, 5])
def test_clips_shorter_than_the_window_come_down_the_ladder(blocks):
    against_oracle(tiny.streamer(MODEL, block=2), blocks)


@pytest.mark.parametrize(
    "anchors",
    [
        {"style_anchor": False},
        {"temporal_budget": 0},
        {"style_anchor": False, "temporal_budget": 0},
        {"temporal_budget": 1},
        {"temporal_budget": 3},
        {"temporal_budget": 5},
        {"offset": -4},
        {"offset": 2},
        {"reindex": False},
        {"reindex": False, "temporal_budget": 0},
        {"zero_anchor_audio": False},
        {"cache_anchor_position": "absolute"},
    ],
    ids=str,
)
@pytest.mark.parametrize("block", [1, 2])
def test_every_anchor_option_equals_the_oracle(anchors, block):
    against_oracle(tiny.streamer(MODEL, 3, 1, block, **anchors), 6)


@pytest.mark.parametrize("option", [{"offset": -4}, {"style_anchor": False}, {"reindex": False},
                                    {"temporal_budget": 0}, {"zero_anchor_audio": False},
                                    {"cache_anchor_position": "absolute"}], ids=str)  # fmt: skip
def test_every_anchor_option_changes_the_video(option):
    rows = tiny.speech(6)
    plain, _ = tiny.run(tiny.streamer(MODEL, 2), rows, FACE)
    other, _ = tiny.run(tiny.streamer(MODEL, 2, **option), rows, FACE)
    assert (plain - other).abs().max() > 1e-4


def test_a_prompt_and_x0_prediction_equal_the_oracle():
    model = tiny.make(text=True, prediction="x0", seed=4)
    against_oracle(tiny.streamer(model, block=2), 5, text=tiny.prompt())


@pytest.mark.parametrize(("block", "budget"), [(1, 4), (1, 1), (2, 3), (4, 2), (2, 2)])
def test_the_fused_clean_pass_gives_the_numbers_of_the_separate_one(block, budget):
    rows = tiny.speech(9, block)
    made = [
        tiny.run(tiny.streamer(MODEL, 3, 1, block, fused, temporal_budget=budget), rows, FACE)[0]
        for fused in (True, False)
    ]
    close(made[0], made[1], 5e-6)


@pytest.mark.parametrize("fused", [True, False])
def test_blocks_remembered_with_noise_equal_the_oracle(fused):
    engine = attrs.evolve(tiny.streamer(MODEL, 1, 4, 2, fused), context_noise=0.2)
    against_oracle(engine, 5)
    rows = tiny.speech(5, 2)
    clean, _ = tiny.run(attrs.evolve(engine, context_noise=0.0), rows, FACE)
    rough, _ = tiny.run(engine, rows, FACE)
    assert torch.equal(clean[:, 0], rough[:, 0])
    assert (clean[:, 1:] - rough[:, 1:]).abs().max() > 1e-3


@pytest.mark.parametrize("kernel", ["sdpa", "explicit"])
def test_both_attention_kernels_equal_the_oracle(kernel):
    model = tiny.make(seed=8)
    model.attention.kernel = kernel
    against_oracle(tiny.streamer(model), 6)


def test_no_needless_pass_of_the_network_is_run():
    rows = tiny.speech(6)
    window_passes, clean_passes = 6 + 4 - 1, 6 - 1
    for fused, extra in ((True, 0), (False, clean_passes)):
        _, passes = tiny.run(tiny.streamer(MODEL, 4, fused=fused), rows, FACE)
        assert passes == 1 + window_passes + extra
    _, passes = tiny.run(tiny.streamer(MODEL, 4, fused=False, temporal_budget=0), rows, FACE)
    assert passes == 1 + window_passes


def test_a_causal_scheduler_is_a_window_of_one_block():
    window = tiny.streamer(MODEL, slots=1, passes=4, block=2)
    schedule = RectifiedFlow(RectifiedFlowConfig(levels=tiny.levels(4)))
    causal = tiny.streamer(MODEL, slots=1, passes=4, block=2)
    causal = type(causal)(
        CausalScheduler(schedule, CausalConfig(num_passes=4)), MODEL, causal.cache, 2
    )
    rows = tiny.speech(4, 2)
    made, _ = tiny.run(causal, rows, FACE)
    torch.testing.assert_close(made, tiny.run(window, rows, FACE)[0], rtol=0, atol=0)


def test_streams_in_a_batch_are_the_streams_alone():
    engine, rows = tiny.streamer(MODEL, block=2), tiny.speech(6, 2, b=3)
    faces = tiny.portrait(b=3)
    together, _ = tiny.run(engine, rows, faces, seeds=(11, 12, 13))
    for i in range(3):
        alone, _ = tiny.run(engine, rows[i : i + 1], faces[i : i + 1], seeds=(11 + i,))
        close(together[i], alone[0], 5e-6)


def test_two_interleaved_streams_do_not_see_each_other():
    engine = tiny.streamer(MODEL)
    rows = [tiny.speech(8, seed=s) for s in (2, 3)]
    faces = [tiny.portrait(seed=s) for s in (1, 6)]
    states = [engine.open(faces[i], seeds=(i,)) for i in range(2)]
    made = [[], []]
    for step in range(8):
        for i in (0, 1) if step % 2 else (1, 0):
            block, states[i] = engine.step(states[i], rows[i][:, 4 * step : 4 * step + 4])
            made[i] += [block] if block is not None else []
    for i in range(2):
        alone, _ = tiny.run(engine, rows[i], faces[i], seeds=(i,))
        assert len(made[i]) == 5
        torch.testing.assert_close(torch.stack(made[i], 1), alone[:, :5], rtol=0, atol=0)


def test_the_first_block_comes_with_the_Lth_step_and_then_one_per_step():
    engine, state, got = tiny.streamer(MODEL), None, []
    state = engine.open(FACE)
    for rows in tiny.speech(7).split(4, dim=1):
        block, state = engine.step(state, rows)
        got.append(block is not None)
    assert got == [False] * 3 + [True] * 4


def test_stream_yields_what_steps_give():
    engine, rows = tiny.streamer(MODEL, 2), tiny.speech(5)
    blocks = list(engine.stream(engine.open(FACE, seeds=(3,)), rows.split(4, dim=1)))
    stepped, _ = tiny.run(engine, rows, FACE, seeds=(3,))
    torch.testing.assert_close(torch.stack(blocks, 1), stepped, rtol=0, atol=0)


def test_the_start_of_a_video_does_not_depend_on_how_long_it_gets():
    engine, rows = tiny.streamer(MODEL), tiny.speech(12)
    long, _ = tiny.run(engine, rows, FACE)
    short, _ = tiny.run(engine, rows[:, :32], FACE)
    close(short[:, :5], long[:, :5], 1e-6)


def test_the_same_seed_gives_the_same_video_and_another_seed_another():
    engine, rows = tiny.streamer(MODEL), tiny.speech(4)
    first, again, other = (tiny.run(engine, rows, FACE, seeds=(s,))[0] for s in (7, 7, 8))
    assert torch.equal(first, again)
    assert (first - other).abs().max() > 0.1


def test_a_state_stepped_twice_names_the_mistake():
    engine = tiny.streamer(MODEL)
    state = engine.open(FACE)
    rows = tiny.speech(1)
    _, later = engine.step(state, rows)
    with pytest.raises(StaleStreamStateError, match=r"Keep what step returns"):
        engine.step(state, rows)
    engine.step(later, rows)


class LeavesEarly(LocalFutureScheduler):
    def admit(self, window, noise, audio, block):
        return window.with_tail(noise, audio, self.top_rung - 1, block)


def test_a_block_emitted_before_the_last_pass_is_an_error_and_not_lost():
    good = tiny.streamer(MODEL, slots=1, passes=2)
    early = LeavesEarly(good.scheduler.schedule, LocalFutureConfig(num_slots=1, num_passes=2))
    engine = type(good)(early, MODEL, good.cache, 1)
    with pytest.raises(StageContractError, match=r"LeavesEarly emitted block 0 .* last pass only"):
        engine.step(engine.open(FACE), tiny.speech(1))


def test_a_refused_step_leaves_the_stream_alive():
    engine = tiny.streamer(MODEL)
    state = engine.open(FACE)
    with pytest.raises(ShapeError, match=r"\[1, 4, d\].*Seen: \[1, 3, 5\]"):
        engine.step(state, tiny.speech(1)[:, :3])
    with pytest.raises(ShapeError, match="Audio rows"):
        engine.step(state, torch.zeros(1, 4, 9))
    _, state = engine.step(state, tiny.speech(1))
    _, state = engine.step(state, None)
    with pytest.raises(StreamEndedError, match="Feed silence"):
        engine.step(state, tiny.speech(1))
    engine.step(state, None)


def test_draining_an_empty_stream_gives_nothing_and_changes_nothing():
    engine = tiny.streamer(MODEL)
    state = engine.open(FACE)
    assert engine.step(state, None) == (None, state)


def test_seeds_and_streams_must_agree():
    with pytest.raises(ConfigError, match="2 seeds for 1 streams"):
        tiny.streamer(MODEL).open(FACE, seeds=(1, 2))
