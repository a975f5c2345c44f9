"""Interruptions: what has not come out is made anew from new speech, and nothing else changes."""

import attrs
import pytest
import tiny_wan as tiny
import torch
from af_core.errors import StageContractError, StaleStreamStateError, StreamEndedError
from af_core.pipeline import load
from af_core.snapshots.value import Snapshot
from af_core.testing.conformance.common import speech
from af_core.testing.tiny import tiny_avatar
from bar_avatar import make_avatar
from hypothesis import given, settings
from hypothesis import strategies as st

MODEL = tiny.make()
FACE = tiny.portrait()
AVATAR = tiny_avatar()
BLOCK = AVATAR.geometry.samples_per_block


def spoken(lengths, block):
    return [tiny.speech(n, block, seed=10 + i) for i, n in enumerate(lengths)]


def streamed(engine, cut_short, rows):
    """The blocks of utterances each of which the next one interrupts, [n, B, c, h, w]."""
    state, made, size = engine.open(FACE, seeds=(5,)), [], 4 * engine.block_latents
    for said in [*cut_short, rows]:
        for piece in said.split(size, dim=1) if said.shape[1] else ():
            block, state = engine.step(state, piece)
            made += [] if block is None else [block[0]]
        if said is not rows:
            state = engine.interrupt(state)
    while len(state.window):
        block, state = engine.step(state, None)
        made += [] if block is None else [block[0]]
    return torch.stack(made)


@pytest.mark.parametrize("slots, passes, block, unheard", [(1, 2, 1, 0), (2, 1, 2, 0), (3, 1, 1, 0),
                                                           (3, 2, 1, 0), (3, 1, 1, 1)])  # fmt: skip
@settings(max_examples=4, deadline=None)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=3), st.integers(1, 3))
def test_an_interrupted_stream_equals_the_oracle(slots, passes, block, unheard, lengths, last):
    engine = attrs.evolve(tiny.streamer(MODEL, slots, passes, block), unheard=unheard)
    *cut_short, rows = spoken([*lengths, last], block)
    made = streamed(engine, cut_short, rows)
    wanted = tiny.by_oracle(engine, rows, FACE, seed=5, cut_short=cut_short)
    torch.testing.assert_close(made.double(), wanted, atol=2e-5, rtol=0)


def test_the_first_new_block_takes_as_many_steps_as_at_the_beginning():
    engine = tiny.streamer(MODEL, 3)
    state = engine.open(FACE)
    for rows in tiny.speech(6).split(4, dim=1):
        _, state = engine.step(state, rows)
    state = engine.interrupt(state)
    came = []
    for rows in tiny.speech(4, seed=8).split(4, dim=1):
        block, state = engine.step(state, rows)
        came.append(block is not None)
    assert came == [False, False, True, True]


def test_an_interruption_takes_no_pass_and_makes_the_old_state_stale():
    engine = tiny.streamer(MODEL, 3)
    _, state = engine.step(engine.open(FACE), tiny.speech(1))
    after = engine.interrupt(state)
    assert after.num_forwards == state.num_forwards
    with pytest.raises(StaleStreamStateError):
        engine.step(state, tiny.speech(1))


ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("hear"), st.integers(0, 4 * BLOCK)),
        st.tuples(st.just("interrupt"), st.just(0)),
        st.tuples(st.just("carry"), st.just(0)),
    ),
    max_size=12,
)


@settings(max_examples=60, deadline=None)
@given(ACTIONS)
def test_any_interleaving_owes_exactly_the_frames_of_what_was_not_forgotten(actions):
    state = AVATAR.open(torch.zeros(32, 48, 3, dtype=torch.uint8), seed=1)
    frames, heard = 0, 0
    for i, (what, size) in enumerate(actions):
        if what == "hear":
            made, state = AVATAR.step(state, speech(1, size, seed=i)[0])
            frames, heard = frames + made.shape[1], heard + size
        elif what == "carry":
            state = AVATAR.restore(Snapshot.from_bytes(AVATAR.snapshot(state).to_bytes()))
        else:
            state = AVATAR.interrupt(state)
            heard = frames * 640
        assert (state.num_samples, state.num_frames) == (heard, frames)
    owed, _ = AVATAR.flush(state)
    assert frames + owed.shape[1] == -(-heard // 640)


def test_speech_that_was_never_heard_out_leaves_no_trace():
    """Speech beyond the last block that entered is forgotten with the encoder that heard it."""
    said, new = speech(1, 5 * BLOCK)[0], speech(1, 3 * BLOCK, seed=1)[0]
    videos = []
    for extra in (0, 1, BLOCK - 1):
        _, state = AVATAR.step(AVATAR.open(torch.zeros(32, 48, 3, dtype=torch.uint8)), said)
        _, state = AVATAR.step(state, speech(1, extra, seed=7)[0])
        frames, state = AVATAR.step(AVATAR.interrupt(state), new)
        videos.append(torch.cat([frames, AVATAR.flush(state)[0]], 1))
    assert torch.equal(videos[0], videos[1]) and torch.equal(videos[0], videos[2])


def test_new_speech_moves_the_first_frames_after_the_interruption():
    said, seen = speech(1, 5 * BLOCK)[0], []
    for seed in (1, 2):
        _, state = AVATAR.step(AVATAR.open(torch.zeros(32, 48, 3, dtype=torch.uint8)), said)
        new = speech(1, 3 * BLOCK, seed=seed)[0]
        frames, _ = AVATAR.step(AVATAR.interrupt(state), new)
        seen.append(frames[:, :4])
    assert not torch.equal(*seen)


def test_finished_streams_cannot_be_interrupted():
    _, state = AVATAR.flush(AVATAR.open(torch.zeros(32, 48, 3, dtype=torch.uint8)))
    with pytest.raises(StreamEndedError):
        AVATAR.interrupt(state)


def test_a_pipeline_that_hears_speech_beside_the_denoiser_says_so():
    avatar = make_avatar()
    state = avatar.open(torch.zeros(64, 64, 3, dtype=torch.uint8))
    assert not avatar.can_interrupt
    with pytest.raises(StageContractError, match="beside the denoiser"):
        avatar.interrupt(state)


def test_the_embedded_avatars_can_be_interrupted():
    for preset in ("toon", "toon-causal"):
        avatar = load(preset)
        block = avatar.geometry.samples_per_block
        state = avatar.open(torch.full((128, 128, 3), 128, dtype=torch.uint8))
        _, state = avatar.step(state, speech(1, 5 * block + 99)[0])
        state = avatar.interrupt(state)
        frames, state = avatar.step(state, speech(1, 2 * block, seed=1)[0])
        owed, _ = avatar.flush(state)
        assert frames.shape[1] + owed.shape[1] == 2 * avatar.info.frames_per_block


def test_interrupted_and_restored_streams_share_steps_with_others():
    def streams():
        states = []
        for i in range(3):
            state = AVATAR.open(torch.zeros(32, 48, 3, dtype=torch.uint8), seed=i)
            states.append(AVATAR.step(state, speech(1, 4 * BLOCK, seed=i)[0])[1])
        return [states[0], AVATAR.interrupt(states[1]), AVATAR.restore(AVATAR.snapshot(states[2]))]

    together, alone = streams(), streams()
    for turn in range(4):
        said = [speech(1, BLOCK, seed=10 * i + turn)[0] for i in range(3)]
        outcomes = AVATAR.step_together(together, said)
        together = [state for _, state in outcomes]
        for i in range(3):
            frames, alone[i] = AVATAR.step(alone[i], said[i])
            assert torch.equal(outcomes[i][0], frames)
