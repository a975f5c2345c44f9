"""Streams that share steps: the same frames as alone, whoever takes part, whatever fails."""

import attrs
import pytest
import tiny_wan
import torch
from af_core.errors import StaleStreamStateError, StreamInputError
from af_core.joining import groups, joined, kind_of, parted
from af_core.joint import step_streams, stream_kind, with_names
from af_core.stages.denoiser import Plan, Segment
from af_core.testing.tiny import tiny_avatar
from hypothesis import given, settings
from hypothesis import strategies as st

BLOCK = 4 * 640
DUAL = {"anchor_cache__use": "dual_anchor", "anchor_cache__temporal_budget": 3}
WINDOW = {"window_scheduler__use": "local_future", "window_scheduler__num_slots": 3}


def portrait(avatar, seed):
    g = torch.Generator().manual_seed(seed)
    shape = (avatar.info.height, avatar.info.width, 3)
    return torch.randint(0, 256, shape, generator=g, dtype=torch.uint8)


def sound(stream, block):
    g = torch.Generator().manual_seed(1000 * stream + block)
    return torch.rand(BLOCK, generator=g) - 0.5


class Alone:
    """Streams stepped one by one: the oracle."""

    def __init__(self, avatar, count):
        self.avatar = avatar
        self.states = [avatar.open(portrait(avatar, i), seed=i) for i in range(count)]
        self.heard = [0] * count
        self.frames = [[] for _ in range(count)]

    def samples(self, who):
        found = [sound(i, self.heard[i]) for i in who]
        for i in who:
            self.heard[i] += 1
        return found

    def step(self, who):
        for i, samples in zip(who, self.samples(who), strict=True):
            frames, self.states[i] = self.avatar.step(self.states[i], samples)
            self.frames[i].append(frames)

    def video(self, i):
        return torch.cat([*self.frames[i], self.avatar.flush(self.states[i])[0]], dim=1)


class Together(Alone):
    def step(self, who):
        outcomes = self.avatar.step_together([self.states[i] for i in who], self.samples(who))
        for i, (frames, state) in zip(who, outcomes, strict=True):
            self.states[i] = state
            self.frames[i].append(frames)


TURNS = st.lists(st.sets(st.integers(0, 2), min_size=1).map(sorted), max_size=9)


@pytest.mark.parametrize("options", [{}, DUAL | WINDOW], ids=["tiny", "dual"])
@settings(max_examples=12, deadline=None)
@given(turns=TURNS)
def test_whoever_takes_part_each_stream_shows_what_it_shows_alone(options, turns):
    avatar = tiny_avatar(**options)
    alone, together = Alone(avatar, 3), Together(avatar, 3)
    for who in turns:
        alone.step(who)
        together.step(who)
    for i in range(3):
        assert torch.equal(alone.video(i), together.video(i))


def counting(avatar, calls):
    """The avatar with a denoiser that notes how many streams each pass had."""
    runner = avatar.runners["denoiser"]
    inner = runner.streamer.denoiser

    class Counted(type(inner)):
        def __call__(self, latents, *rest):
            calls.append(len(latents))
            return inner(latents, *rest)

    streamer = attrs.evolve(runner.streamer, denoiser=Counted())
    runners = {**avatar.runners, "denoiser": attrs.evolve(runner, streamer=streamer)}
    return attrs.evolve(avatar, runners=runners)


def test_streams_of_different_ages_run_as_one_batch_once_their_windows_are_full():
    calls = []
    group = Together(counting(tiny_avatar(**DUAL, **WINDOW), calls), 3)
    for who in ([0], [0], [0], [1], [0, 1]):
        group.step(who)
    for _ in range(8):
        group.step([0, 1, 2])
    calls.clear()
    group.step([0, 1, 2])
    assert calls == [3]


def test_a_stream_that_takes_no_part_is_the_same_to_the_bit():
    group = Together(tiny_avatar(**DUAL, **WINDOW), 3)
    for _ in range(6):
        group.step([0, 1, 2])
    memory = group.states[2].nodes["denoiser"].stream.memory.slots
    before = memory.clone()
    group.step([0, 1])
    assert torch.equal(memory, before)


def breaking(avatar, when):
    """The avatar with a denoiser that, when told to, fails after it has written its memory."""
    runner = avatar.runners["denoiser"]
    inner = runner.streamer.denoiser

    class Broken(type(inner)):
        def __call__(self, latents, *rest):
            made = inner(latents, *rest)
            if when(latents, rest):
                raise torch.OutOfMemoryError("no memory left")
            return made

    streamer = attrs.evolve(runner.streamer, denoiser=Broken())
    runners = {**avatar.runners, "denoiser": attrs.evolve(runner, streamer=streamer)}
    return attrs.evolve(avatar, runners=runners)


def test_when_there_is_no_memory_for_all_at_once_each_is_drawn_alone_and_none_is_harmed():
    avatar = tiny_avatar(**DUAL, **WINDOW)
    alone = Alone(avatar, 3)
    small = Together(breaking(avatar, lambda latents, _: len(latents) > 1), 3)
    for _ in range(9):
        alone.step([0, 1, 2])
        small.step([0, 1, 2])
    for i in range(3):
        assert torch.equal(alone.video(i), small.video(i))


def test_a_stream_that_fails_fails_alone():
    avatar = tiny_avatar(**DUAL, **WINDOW)
    marked = []

    def is_marked(latents, rest):
        return any((rest[2] == one).flatten(1).all(1).any() for one in marked)

    broken = breaking(avatar, is_marked)
    alone, group = Alone(avatar, 3), Together(broken, 3)
    for _ in range(7):
        alone.step([0, 1, 2])
        group.step([0, 1, 2])
    marked.append(group.states[1].nodes["denoiser"].stream.conditions)
    outcomes = broken.step_together(group.states, group.samples([0, 1, 2]))
    assert isinstance(outcomes[1], torch.OutOfMemoryError)
    alone.step([0, 1, 2])
    for i in (0, 2):
        assert torch.equal(outcomes[i][0], alone.frames[i][-1])


def test_what_one_stream_says_wrong_is_its_own_outcome():
    avatar = tiny_avatar()
    states = [avatar.open(portrait(avatar, i), seed=i) for i in range(2)]
    good, bad = avatar.step_together(states, [sound(0, 0), torch.tensor([float("nan")])])
    assert isinstance(bad, StreamInputError)
    assert torch.equal(good[0], avatar.step(avatar.open(portrait(avatar, 0)), sound(0, 0))[0])


def streams(engine, ages, text=None):
    """Single streams of these ages, and the audio of their next blocks."""
    states = []
    for i, age in enumerate(ages):
        state = engine.open(tiny_wan.portrait(seed=i), seeds=(i,), text=text)
        for rows in tiny_wan.speech(age, seed=50 + i).split(4, dim=1)[:age]:
            _, state = engine.step(state, rows)
        states.append(state)
    return states, [tiny_wan.speech(1, seed=90 + i) for i in range(len(ages))]


@pytest.mark.parametrize(
    ("passes", "fused", "text", "anchors"),
    [
        (1, True, False, {}),
        (1, False, True, {}),
        (2, True, False, {}),
        (1, True, False, {"history": "noisy"}),
        (1, True, True, {"context_noise": 0.1}),
    ],
    ids=["fused", "text", "passes", "noisy", "rough"],
)
def test_the_network_gives_each_stream_what_it_gives_it_alone(passes, fused, text, anchors):
    model = tiny_wan.make(text=text)
    prompt = tiny_wan.prompt() if text else None
    engine = tiny_wan.streamer(model, 3, passes, fused=fused, temporal_budget=2, **anchors)
    ages = (7, 9, 8)
    alone, audio = streams(engine, ages, prompt)
    shared, _ = streams(engine, ages, prompt)
    for _ in range(4):
        assert len({stream_kind(engine, state) for state in shared}) == 1
        one_by_one = [engine.step(*each) for each in zip(alone, audio, strict=True)]
        at_once = step_streams(engine, shared, audio)
        for (want, _), (got, _) in zip(one_by_one, at_once, strict=True):
            torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)
        alone, shared = ([state for _, state in made] for made in (one_by_one, at_once))
    for one, other in zip(alone, shared, strict=True):
        assert one.clock == other.clock and one.window.blocks == other.window.blocks
        assert one.anchors == other.anchors
        torch.testing.assert_close(one.memory.k, other.memory.k, atol=1e-5, rtol=1e-5)


def test_a_state_whose_step_was_shared_is_stale():
    engine = tiny_wan.streamer(tiny_wan.make(layers=2), 2, temporal_budget=1)
    states, audio = streams(engine, (6, 7))
    step_streams(engine, states, audio)
    with pytest.raises(StaleStreamStateError):
        engine.step(states[0], audio[0])


def test_young_streams_are_of_no_kind_and_filling_windows_of_their_own():
    engine = tiny_wan.streamer(tiny_wan.make(layers=2), 2, temporal_budget=1)
    kinds = [stream_kind(engine, streams(engine, (age,))[0][0]) for age in range(8)]
    assert kinds[0] is None
    assert kinds[1] != kinds[2] and len(set(kinds[-3:])) == 1


def test_slots_are_called_by_their_order_of_use():
    plan = Plan((0, 1), (Segment(0, 2, 0),), ((7, -2), (4, -1)), ((1, 7),), anchor_slot=3)
    named, slots = with_names(plan)
    assert slots == (3, 7, 4)
    assert (named.anchor_slot, named.stored, named.saves) == (0, ((1, -2), (2, -1)), ((1, 1),))


def test_values_are_joined_and_parted_again():
    @attrs.frozen
    class Memory:
        past: torch.Tensor
        _count: int

    values = [(Memory(torch.full((1, 2), i), 3), [None, {"x": torch.zeros(1, i)}]) for i in (1, 1)]
    assert len(groups([kind_of(value) for value in values])) == 1
    memory, (nothing, table) = joined(values)
    assert memory.past.shape == (2, 2) and nothing is None and table["x"].shape == (2, 1)
    for before, after in zip(values, parted(joined(values), 2), strict=True):
        assert torch.equal(before[0].past, after[0].past) and after[0]._count == 3
    assert kind_of((torch.zeros(1, 2), 1)) != kind_of((torch.zeros(1, 3), 1))
    assert kind_of(Memory(torch.zeros(1), 2)) != kind_of(Memory(torch.zeros(1), 3))
    assert groups(["a", None, "a", None]) == [[0, 2], [1], [3]]
