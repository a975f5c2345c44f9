"""Noise that says numbers, and motion that follows them."""

import math

import attrs
import pytest
import tiny_training as t
import tiny_wan as tiny
import torch
from af_core.errors import ShapeError
from af_train.coupling import plant, read, tell
from af_train.worlds.toon.driven import DRIVES, driven_motion
from hypothesis import given, settings
from hypothesis import strategies as st

pytestmark = pytest.mark.usefixtures("one_thread")


@settings(max_examples=30, deadline=None)
@given(
    lead=st.lists(st.integers(1, 3), max_size=2),
    count=st.integers(0, 4),
    sides=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    seed=st.integers(0, 2**31),
)
def test_what_was_planted_is_read_and_nothing_else_changes(lead, count, sides, seed):
    rng = torch.Generator().manual_seed(seed)
    noise = torch.randn(*lead, 4, *sides, generator=rng)
    numbers = torch.randn(*lead, count, generator=rng)
    told = plant(noise, numbers)
    torch.testing.assert_close(read(told, count), numbers, atol=1e-5, rtol=1e-5)
    assert torch.equal(told[..., count:, :, :], noise[..., count:, :, :])
    between = [x - x.mean((-2, -1), keepdim=True) for x in (told, noise)]
    torch.testing.assert_close(*between, atol=1e-5, rtol=1e-5)


def test_planted_noise_is_standard_normal():
    rng = torch.Generator().manual_seed(0)
    told = plant(torch.randn(50_000, 2, 2, 2, generator=rng), torch.randn(50_000, 2, generator=rng))
    covariance = torch.cov(told.flatten(1).T)
    assert (covariance - torch.eye(8)).abs().max() < 0.03
    assert told.pow(4).mean() == pytest.approx(3, abs=0.1)


def test_noise_without_room_is_refused():
    with pytest.raises(ShapeError, match="3 numbers need as many channels; the noise has 2"):
        plant(torch.zeros(2, 4, 4), torch.zeros(3))
    with pytest.raises(ShapeError, match="3 numbers need as many channels"):
        read(torch.zeros(2, 4, 4), 3)


def test_every_frame_of_noise_needs_numbers_of_its_own():
    with pytest.raises(ShapeError, match=r"Noise of \[2, 5\] frames cannot say .* \[2, 1\]"):
        tell(torch.zeros(2, 5, 3, 4, 4), torch.zeros(2, 1, 3))


class Heard(list):
    """A network that notes what it is asked about."""

    def __init__(self, network):
        self.network, self.config = network, network.config

    def __getattr__(self, name):
        return getattr(self.network, name)

    def __call__(self, *inputs):
        return self.network(*inputs)

    def denoise(self, latents, *others):
        self.append(latents[:, 1:].detach())
        return self.network.denoise(latents, *others)


def test_a_teacher_learns_from_noise_that_says_what_happens():
    b, told = t.batch(2), torch.randn(2, t.FRAMES, 2)
    objective = t.objective("flow-matching", lowest=1.0)  # nothing but noise
    network = Heard(tiny.make(layers=2))
    for numbers in (told, None):
        objective.backward(t.turn("teacher"), {"teacher": network}, attrs.evolve(b, told=numbers))
    torch.testing.assert_close(read(network[0], 2), told, atol=1e-5, rtol=1e-5)
    assert (read(network[1], 2) - told).abs().max() > 0.1
    torch.testing.assert_close(network[0][:, :, 2:], network[1][:, :, 2:])


@pytest.mark.parametrize("mix", [0.0, 1.0])
@pytest.mark.parametrize("role", ["student", "critic"])
def test_clips_are_scored_under_noise_that_says_what_their_own_said(role, mix):
    b, count = t.batch(2), 2
    noise_alone = {"lowest": 1.0, "highest": 1.0, "mix_self_forcing": mix}
    objective = t.objective("dmd", coupled=count, **noise_alone)
    networks = t.networks(*objective.roles, *objective.frozen)
    for name in ("critic", "teacher"):
        networks[name] = Heard(networks[name])
    objective.backward(t.turn(role), networks, b)
    made = objective.roll_out(t.turn(role), networks["student"], b)
    (scored,) = networks["critic"]
    torch.testing.assert_close(
        read(scored, count), read(made.first_noise(), count), atol=1e-5, rtol=1e-5
    )
    for asked in networks["teacher"]:
        assert torch.equal(asked, scored)


def numbers(rows, seed=0):
    return torch.randn(rows, len(DRIVES), generator=torch.Generator().manual_seed(seed))


def track(rows):
    return torch.zeros(1 + 4 * rows)


def test_motion_begins_at_rest_and_has_no_foresight():
    drives = numbers(20)
    whole = driven_motion(track(20), drives)
    pushed = [t for name, t in zip("xyrypgg", whole.tracks(), strict=False) if name != "y"]
    assert all(t[0] == 0 for t in pushed) and whole.blink[0] == 0
    begun = driven_motion(track(7), drives[:7])
    for a, b in zip(whole.tracks(), begun.tracks(), strict=True):
        torch.testing.assert_close(a[:29], b, atol=1e-6, rtol=0)


def test_the_same_numbers_move_the_same_and_others_move_otherwise():
    first, again, other = (driven_motion(track(20), numbers(20, s)) for s in (1, 1, 2))
    assert torch.equal(first.x, again.x) and not torch.allclose(first.x, other.x)


def test_a_push_starts_a_movement_that_settles_and_returns():
    """Stepped as a recursion of two poles, it is the same; small numbers push nothing."""
    drives = torch.zeros(30, len(DRIVES))
    drives[:, 0] = numbers(30)[:, 0]
    made = driven_motion(track(30), drives).x
    past, now, slow = 0.0, 0.0, [0.0]
    for number in drives[:, 0].tolist():
        push = math.copysign(max(abs(number) - 1, 0), number)
        for frame in range(4):
            now, past = (0.946 + 0.84) * now - 0.946 * 0.84 * past + push * (frame == 0), now
            slow.append(now)
    slow = torch.tensor(slow)
    torch.testing.assert_close(made, slow * (made[-1] / slow[-1]), atol=1e-5, rtol=1e-3)


def test_long_motion_is_as_lively_as_it_says():
    motion = driven_motion(track(20_000), numbers(20_000))
    blinks = (motion.blink > 0.5).int().diff().clamp(min=0).sum() / (80_000 / 25 / 60)
    assert 17 < blinks < 24
    assert float(motion.x.std()) == pytest.approx(0.016, rel=0.1)
    glances = (motion.gaze_x.diff() != 0).sum() / (80_000 / 25)
    assert 0.3 < glances < 0.9
    calm = driven_motion(track(20_000), numbers(20_000), liveliness=0.5)
    torch.testing.assert_close(calm.x, 0.5 * motion.x)
    assert torch.equal(calm.blink, motion.blink)
