"""The roll-out is the stream that users see, and its gradient is exact."""

import weakref

import attrs
import pytest
import tiny_wan as tiny
import torch
from af_core.errors import ConfigError
from af_train.networks import Conditions
from af_train.rollout import roll_out, self_forcing

pytestmark = pytest.mark.usefixtures("one_thread")

BLOCKS, BLOCK, B = 5, 2, 2
FACE = tiny.portrait(b=B)
ROWS = tiny.speech(BLOCKS, BLOCK, b=B)
SEEDS = (11, 12)
LEVELS_AT_OFFSET = {0: [4, 1, 2, 3, 4], 1: [3, 4, 1, 2, 3], 2: [2, 3, 4, 1, 2], 3: [1, 2, 3, 4, 1]}
"""Rung (1 is the cleanest) at which each block carries gradient, nb = 5, L = 4."""


def engine(model=None, slots=4, passes=1, fused=False, **anchors):
    return tiny.streamer(model or tiny.make(layers=2), slots, passes, BLOCK, fused, **anchors)


def rolled(streamer, offset=0, text=None):
    given = Conditions(FACE, ROWS, text)
    return roll_out(streamer, streamer.scheduler.schedule, given, seeds=SEEDS, offset=offset)


@pytest.mark.parametrize("slots", [1, 2, 4])
@pytest.mark.parametrize("passes", [1, 2])
@pytest.mark.parametrize("fused", [True, False])
def test_what_is_rolled_out_is_what_users_are_served_bit_for_bit(slots, passes, fused):
    streamer = engine(slots=slots, passes=passes, fused=fused)
    wanted, _ = tiny.run(streamer, ROWS, FACE, seeds=SEEDS)
    made = rolled(streamer).emitted
    assert torch.equal(made, wanted.flatten(1, 2))


def test_a_network_with_a_prompt_rolls_out_as_it_streams():
    streamer = engine(tiny.make(text=True))
    wanted, _ = tiny.run(streamer, ROWS, FACE, seeds=SEEDS, text=tiny.prompt())
    assert torch.equal(rolled(streamer, text=tiny.prompt()).emitted, wanted.flatten(1, 2))


def test_blocks_that_enter_unheard_are_rolled_out_as_they_stream():
    streamer = attrs.evolve(engine(), unheard=2)
    wanted, _ = tiny.run(streamer, ROWS, FACE, seeds=SEEDS)
    made = rolled(streamer, offset=1)
    assert torch.equal(made.emitted, wanted.flatten(1, 2))
    assert made.clip.shape == made.emitted.shape


@pytest.mark.parametrize("slots", [1, 4])
@pytest.mark.parametrize("exit_step", [None, 0, 3])
def test_the_first_noise_is_what_blocks_came_in_as(slots, exit_step):
    streamer, shape = engine(slots=slots), (BLOCK, *FACE.shape[2:])
    schedule = streamer.scheduler.schedule
    if exit_step is not None:
        exit_step = min(exit_step, slots - 1)
        streamer = self_forcing(streamer, schedule, exit_step)
    given = Conditions(FACE, ROWS)
    made = roll_out(streamer, schedule, given, seeds=SEEDS, offset=0)
    first = {}

    class Noted:
        def draw(self, seeds, block, rung, shape):
            noise = streamer.noise.draw(seeds, block, rung, shape)
            first.setdefault(block, noise)  # what is drawn later is added on the way down
            return noise

    noted = attrs.evolve(streamer, noise=Noted())
    roll_out(noted, schedule, given, seeds=SEEDS, offset=0)
    wanted = torch.cat([first[block] for block in range(BLOCKS)], 1)
    assert wanted.shape[1:] == (BLOCKS * BLOCK, *shape[1:])
    assert torch.equal(made.first_noise(), wanted)


@pytest.mark.parametrize("offset", range(4))
def test_windows_with_gradients_tile_the_clip_at_the_known_levels(offset):
    made = rolled(engine(), offset)
    frames = [range(w.frames.start, w.frames.stop) for w in made.windows]
    assert [f for window in frames for f in window] == [*range(BLOCKS * BLOCK)]
    assert len(made.windows) == 2
    ladder = sorted(tiny.levels(4))
    levels = torch.cat([w.sigma.flatten()[: len(f)] for w, f in zip(made.windows, frames)])
    found = [1 + min(range(4), key=lambda i: abs(ladder[i] - s)) for s in levels[::BLOCK].tolist()]
    assert found == LEVELS_AT_OFFSET[offset]


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("text", [True, False])
def test_a_window_run_again_with_gradients_gives_what_was_streamed(fused, text):
    streamer = engine(tiny.make(layers=3, text=text), fused=fused)
    made = rolled(streamer, 1, tiny.prompt() if text else None)
    for window, clean in made.again():
        assert clean.requires_grad
        torch.testing.assert_close(clean, made.clip[:, window.frames], atol=1e-6, rtol=1e-6)


def gradients(model):
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("offset", [0, 3])
def test_window_by_window_the_gradient_is_that_of_the_whole_clip(offset):
    model = tiny.make(layers=2).double()
    streamer = engine(model)
    made = rolled(streamer, offset)
    field = torch.randn(made.clip.shape, generator=torch.Generator().manual_seed(0)).double()
    made.backward(field)
    ours = gradients(model)
    model.zero_grad()
    clip = torch.cat([clean for _, clean in made.again()], dim=1).double()
    (0.5 * (clip - (clip - field).detach()).square().sum()).backward()
    joint = gradients(model)
    assert ours.keys() == joint.keys() == dict(model.named_parameters()).keys()
    for name, wanted in joint.items():
        torch.testing.assert_close(ours[name], wanted, atol=1e-10, rtol=1e-6)


def test_a_gradient_equals_finite_differences_of_its_window_with_the_history_held():
    model = tiny.make(layers=2).double()
    made = rolled(engine(model), 2)
    field = torch.randn(made.clip.shape, generator=torch.Generator().manual_seed(0))
    made.backward(field)
    slopes = gradients(model)
    g = torch.Generator().manual_seed(1)
    direction = {n: torch.randn(p.shape, generator=g).double() for n, p in model.named_parameters()}
    wanted = sum(float((slopes[n] * d).sum()) for n, d in direction.items())

    def value(step):
        with torch.no_grad():
            for n, p in model.named_parameters():
                p.add_(direction[n], alpha=step)
            made_again = [(w.kept.again(model), w) for w in made.windows]
            for n, p in model.named_parameters():
                p.add_(direction[n], alpha=-step)
        return sum(float((w.clean(o).double() * field[:, w.frames]).sum()) for o, w in made_again)

    assert (value(1e-3) - value(-1e-3)) / 2e-3 == pytest.approx(wanted, rel=2e-2, abs=1e-2)


def test_what_was_kept_is_not_written_over_and_has_no_gradient():
    streamer = engine()
    made = rolled(streamer, 3)
    before = [(w.kept.memory.k.clone(), w.kept.memory.v.clone()) for w in made.windows]
    made.backward(torch.ones_like(made.clip))
    for window, (k, v) in zip(made.windows, before):
        memory = window.kept.memory
        assert torch.equal(memory.k, k) and torch.equal(memory.v, v)
        assert not memory.k.requires_grad and not window.kept.latents.requires_grad
    assert (before[0][0] - before[1][0]).abs().max() > 0, "two windows remember different pasts"


def test_only_the_window_that_holds_a_block_moves_its_estimate():
    model = tiny.make(layers=2)
    made = rolled(engine(model), 0)
    assert [w.frames for w in made.windows] == [slice(0, 2), slice(2, 10)]
    field = torch.zeros_like(made.clip)
    field[:, 2:4] = 1
    made.backward(field)
    from_second = gradients(model)
    model.zero_grad()
    (dict(enumerate(clean for _, clean in made.again()))[1][:, :2]).sum().backward()
    for name, wanted in gradients(model).items():
        torch.testing.assert_close(from_second[name], wanted, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("exit_step", range(4))
def test_self_forcing_runs_no_step_after_its_exit(exit_step):
    full = engine()
    streamer = self_forcing(full, full.scheduler.schedule, exit_step)
    made = rolled(streamer)
    assert len(made.windows) == BLOCKS and torch.equal(made.clip, made.emitted)
    wanted = sorted(tiny.levels(4), reverse=True)[exit_step]
    assert all(w.sigma.flatten().tolist() == pytest.approx([wanted] * BLOCK) for w in made.windows)
    _, forwards = tiny.run(streamer, ROWS, FACE, seeds=SEEDS)
    assert forwards == 1 + BLOCKS * (exit_step + 1) + BLOCKS - 1


def test_self_forcing_to_the_last_step_is_the_causal_stream():
    full = engine()
    streamer = self_forcing(full, full.scheduler.schedule, 3)
    wanted, _ = tiny.run(engine(slots=1, passes=4), ROWS, FACE, seeds=SEEDS)
    assert torch.equal(rolled(streamer).emitted, wanted.flatten(1, 2))


def test_offsets_and_rows_that_do_not_fit_are_refused():
    with pytest.raises(ConfigError, match="0 to L - 1"):
        rolled(engine(), 4)
    streamer = engine()
    with pytest.raises(ConfigError, match="no whole blocks"):
        roll_out(streamer, streamer.scheduler.schedule, Conditions(FACE, ROWS[:, :12]),
                 seeds=SEEDS, offset=0)  # fmt: skip


class Listener:
    """Notes every pass of a network."""

    def __init__(self, network):
        self.network, self.calls = network, []

    def __getattr__(self, name):
        return getattr(self.network, name)

    def __call__(self, latents, modulation, audio, conditions, plan, memory=None):
        self.calls.append((latents, modulation, audio, plan, memory.k.clone(), memory.v.clone()))
        return self.network(latents, modulation, audio, conditions, plan, memory)


@torch.no_grad()
@pytest.mark.parametrize("budget", [2, 3])
def test_a_noisy_history_is_the_keys_of_the_pass_that_emitted_and_costs_no_pass(budget):
    model, steps = tiny.make(layers=3), 2
    streamer = engine(model, slots=1, passes=steps, history="noisy", temporal_budget=budget)
    listener = Listener(model)
    rolled(attrs.evolve(streamer, denoiser=listener))
    assert len(listener.calls) == 1 + BLOCKS * steps, "prefill and windows, nothing else"
    cache, anchors = streamer.cache, streamer.cache.open()
    conditions = model.open(FACE)
    for block in range(BLOCKS - 1):
        latents, modulation, audio, _, k, v = listener.calls[1 + block * steps + steps - 1]
        plan, anchors = cache.absorb(anchors, 1 + block * BLOCK, BLOCK)
        memory = type(model.allocate(conditions, 1))(k.clone(), v.clone())
        model(latents, modulation, audio, conditions, plan, memory)
        *_, k, v = listener.calls[1 + (block + 1) * steps]
        assert torch.equal(memory.k, k) and torch.equal(memory.v, v)


@pytest.mark.parametrize("slots", [1, 3])
def test_a_noisy_history_rolls_out_with_the_gradient_of_the_whole_clip(slots):
    model = tiny.make(layers=2)
    streamer = engine(model, slots=slots, history="noisy")
    wanted, _ = tiny.run(streamer, ROWS, FACE, seeds=SEEDS)
    made = rolled(streamer)
    assert torch.equal(made.emitted, wanted.flatten(1, 2))
    clean, _ = tiny.run(engine(model, slots=slots), ROWS, FACE, seeds=SEEDS)
    assert (wanted - clean).abs().max() > 1e-4
    made.backward(torch.ones_like(made.clip))
    ours = gradients(model)
    model.zero_grad()
    torch.cat([clean for _, clean in made.again()], dim=1).sum().backward()
    for name, value in gradients(model).items():
        torch.testing.assert_close(ours[name], value, atol=1e-5, rtol=1e-4)


class Saved:
    """A tensor that a graph keeps for its backward pass."""

    def __init__(self, tensor):
        self.tensor = tensor


def most_saved(run):
    """The most numbers that graphs held at once while ``run`` ran."""
    alive, most = weakref.WeakSet(), [0]

    def pack(tensor):
        box = Saved(tensor)
        alive.add(box)
        most[0] = max(most[0], sum(one.tensor.numel() for one in alive))
        return box

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda box: box.tensor):
        run()
    return most[0]


def test_no_more_than_one_window_is_held_for_the_backward_pass():
    made = rolled(engine(), 3)
    field = torch.ones_like(made.clip)
    alone = [
        most_saved(lambda w=w: w.clean(w.kept.again(made.network)).sum().backward())
        for w in made.windows
    ]
    held = most_saved(lambda: made.backward(field))
    assert max(alone) <= held <= max(alone) + made.clip.numel(), "one window and its field"
    joint = most_saved(lambda: sum(clean.sum() for _, clean in [*made.again()]).backward())
    assert joint == sum(alone)
