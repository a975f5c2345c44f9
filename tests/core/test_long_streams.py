"""Streams without end: no drift from the oracle, no dependence on age, no growth."""

import attrs
import tiny_wan as tiny
import torch
from af_core.noise import RecordedNoise

MODEL = tiny.make(layers=2, seed=3)
BLOCKS = 2_000


def test_two_thousand_blocks_stay_with_the_relative_position_oracle():
    engine = tiny.streamer(MODEL, slots=2, temporal_budget=2)
    rows, face = tiny.speech(BLOCKS), tiny.portrait()
    made, passes = tiny.run(engine, rows, face)
    wanted = tiny.by_oracle(engine, rows, face)
    assert passes == 1 + BLOCKS + 1
    for sampled in (0, 1, 2, 3, 10, 100, 999, 1024, 1500, BLOCKS - 2, BLOCKS - 1):
        torch.testing.assert_close(
            made[0, sampled].double(), wanted[sampled], atol=5e-5, rtol=0, msg=f"block {sampled}"
        )


def aged(state, blocks):
    """Return the state as if its stream had begun so many blocks earlier."""
    window = attrs.evolve(state.window, blocks=tuple(b + blocks for b in state.window.blocks))
    pending = attrs.evolve(state.pending, block=state.pending.block + blocks)
    clock = attrs.evolve(state.clock, next_block=state.clock.next_block + blocks)
    return attrs.evolve(state, window=window, pending=pending, clock=clock)


def test_a_step_is_the_same_bits_after_a_year():
    blocks, year = 4, 365 * 24 * 3600 * 25 // 4
    shape = (1, 1, *tiny.portrait().shape[2:])
    g = torch.Generator().manual_seed(0)
    drawn = {(k, r): torch.randn(shape, generator=g) for k in range(20) for r in range(4)}
    both = RecordedNoise(drawn | {(k + year, r): z for (k, r), z in drawn.items()})
    engine, made = tiny.streamer(MODEL, noise=both, temporal_budget=3), []
    for age in (0, year):
        state = engine.open(tiny.portrait())
        for rows in tiny.speech(8).split(4, dim=1):
            _, state = engine.step(state, rows)
        state, late = aged(state, age), []
        for rows in tiny.speech(blocks, seed=9).split(4, dim=1):
            block, state = engine.step(state, rows)
            late.append(block)
        made.append(torch.stack(late))
    assert torch.equal(made[0], made[1])


def test_absolute_positions_are_exact_at_any_age():
    engine = tiny.streamer(MODEL, temporal_budget=1, reindex=False)
    state = engine.open(tiny.portrait())
    for rows in tiny.speech(6).split(4, dim=1):
        _, state = engine.step(state, rows)
    block, _ = engine.step(aged(state, 10**9), tiny.speech(1))
    assert block is not None
    assert torch.isfinite(block).all()


def test_a_stream_holds_the_same_memory_for_ever():
    engine = tiny.streamer(MODEL, temporal_budget=3)
    state = engine.open(tiny.portrait())
    where, sizes = state.memory.k.data_ptr(), set()
    for step, rows in enumerate(tiny.speech(60).split(4, dim=1)):
        _, state = engine.step(state, rows)
        if step > 10:
            sizes.add((state.memory.k.shape, len(state.conditions.modulations), len(state.window)))
    assert state.memory.k.data_ptr() == where
    assert len(sizes) == 1
