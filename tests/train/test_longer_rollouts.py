"""Roll-outs longer than what is scored: their end counts, and follows the picture before it."""

import attrs
import pytest
import tiny_training as t
import torch
from af_core.errors import ConfigError
from af_train.coupling import read
from af_train.objectives.contract import CRITIC, STUDENT
from af_train.objectives.matching import gradient_field

pytestmark = pytest.mark.usefixtures("one_thread")


@attrs.frozen
class Plain:
    """Latents are pictures: one frame each, three channels."""

    def open(self, num_streams):
        return None

    def step(self, state, latents):
        return latents[:, :, :3].movedim(2, -1), state

    def encode(self, picture):
        return picture.movedim(-1, 1)[:, None]


def context(**anchors):
    made = t.context(slots=2, **anchors)
    return attrs.evolve(made, stages={**made.stages, "decoder": Plain(), "image_encoder": Plain()})


def objective(**options):
    return t.objective("dmd", context(), mix_self_forcing=0.0, **options)


def models():
    return t.networks("student", "critic", "teacher")


def test_the_end_follows_the_picture_before_it():
    made, batch = objective(scored_blocks=1, coupled=1), t.batch()
    rolled = made.roll_out(t.turn(STUDENT), models()["student"], batch)
    end = made.end_of(batch, rolled)
    first = t.FRAMES - t.BLOCK
    assert end.first == first and torch.equal(end.clip, rolled.clip[:, first:])
    assert torch.equal(end.batch.portrait, rolled.emitted[:, first - 1 : first])
    assert torch.equal(end.batch.rows, batch.rows[:, 4 * first :])
    assert torch.equal(end.told, read(rolled.first_noise(), 1)[:, first:])


def test_what_is_no_longer_than_the_score_is_scored_whole():
    batch, fields = t.batch(), []
    for options in ({}, {"scored_blocks": t.BLOCKS}, {"scored_blocks": t.BLOCKS + 1}):
        networks = models()
        objective(**options).backward(t.turn(STUDENT), networks, batch)
        fields.append(t.gradients(networks["student"]))
    for other in fields[1:]:
        assert all(torch.equal(other[n], v) for n, v in fields[0].items())


def test_only_windows_that_reach_into_the_end_carry_its_gradient():
    """The same by hand: every window is run, with a field that is 0 before the end."""
    made, batch, networks = objective(scored_blocks=1), t.batch(), models()
    made.backward(t.turn(STUDENT), networks, batch)
    found = t.gradients(networks["student"])
    networks = models()
    rolled = made.roll_out(t.turn(STUDENT), networks["student"], batch)
    end = made.end_of(batch, rolled)
    noisy, sigma, _ = made._noised(t.turn(STUDENT), end)
    gradient = made._gradient(networks, end.batch, end.clip, noisy, sigma)
    field = gradient_field(gradient, torch.ones(t.BLOCK, dtype=torch.bool))
    whole = torch.cat([torch.zeros_like(rolled.clip[:, : end.first]), field], 1)
    rolled.backward(whole)
    assert len([*rolled.again(end.first)]) < len([*rolled.again()])
    for name, value in t.gradients(networks["student"]).items():
        torch.testing.assert_close(found[name], value, atol=1e-7, rtol=1e-4)


def test_lengths_are_drawn_alike_by_all_and_reach_both_ends():
    made, lengths = objective(least_blocks=1, critic_updates=1), set()
    networks = models()
    seen = type(made).roll_out

    class Watching(type(made)):
        def roll_out(self, turn, student, batch):
            lengths.add(batch.num_frames // t.BLOCK)
            return seen(self, turn, student, batch)

    fields = attrs.asdict(made, recurse=False, filter=lambda f, _: f.init)
    watching = Watching(**fields)
    for step in range(8):
        watching.backward(t.turn(CRITIC, step), networks, t.batch(1))
    assert lengths == {1, 2, 3}


def test_what_cannot_be_is_refused():
    with pytest.raises(ConfigError, match="decoder"):
        t.objective("dmd", scored_blocks=1)
    with pytest.raises(ConfigError, match="at least 1"):
        objective(scored_blocks=-1)
