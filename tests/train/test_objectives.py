"""Objectives: gradients against closed forms, masks by perturbation, and who may move."""

import re
from types import ModuleType

import attrs
import pytest
import tiny_training as t
import tiny_wan as tiny
import torch
from af_core.anchors.config import DualAnchorConfig
from af_core.anchors.dual_anchor import DualAnchorCache
from af_core.errors import ConfigError
from af_core.plugins import load_catalog
from af_train.batches import Weighted
from af_train.masks import bidirectional, block_causal, over_clean_past
from af_train.networks import predict, predict_clean, to_velocity
from af_train.objectives.flow_matching import dropped
from af_train.objectives.matching import (
    flow_loss,
    gradient_field,
    guided,
    level_weights,
    matching_gradient,
    surrogate,
)
from af_train.objectives.ode_regression import at_rungs
from af_train.objectives.options import FlowMatchingOptions
from workspace import ROOT

pytestmark = pytest.mark.usefixtures("one_thread")

ALL = ("flow-matching", "diffusion-forcing", "ode-regression", "causal-ode", "dmd", "self-forcing")


def posterior_mean(noisy, sigma, mean, std):
    """E[x_0 | x_sigma] of a Gaussian."""
    spread = (1 - sigma) ** 2 * std**2 + sigma**2
    return mean + (1 - sigma) * std**2 / spread * (noisy - (1 - sigma) * mean)


@pytest.mark.parametrize("sigma", [0.2, 0.6, 0.9])
def test_the_gradient_of_a_gaussian_is_the_closed_form(sigma):
    m, q = 1.0, 0.5
    g = torch.Generator().manual_seed(0)
    z, e = torch.randn(2, 200_000, generator=g, dtype=torch.float64)
    a, b = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (-0.3, 0.9))
    y = (a + b * z).view(-1, 1, 1, 1, 1)
    noisy = ((1 - sigma) * y + sigma * e.view_as(y)).detach()
    critic = posterior_mean(noisy, sigma, a.item(), b.item())
    teacher = posterior_mean(noisy, sigma, m, q)
    field = matching_gradient(y.detach(), critic, teacher, normalise=False)
    (y * gradient_field(field, torch.tensor([True]))).sum().backward()
    real, fake = ((1 - sigma) ** 2 * s**2 + sigma**2 for s in (q, 0.9))
    assert a.grad.item() == pytest.approx(sigma**2 * (-0.3 - m) / real, rel=0.02)
    assert b.grad.item() == pytest.approx(
        sigma**2 * 0.9 * (1 / real - 1 / fake), rel=0.03, abs=2e-3
    )


@pytest.mark.parametrize(("w", "mean", "std"), [(1.0, 1.0, 0.5), (1.5, 1.43, 0.30)])
def test_guidance_moves_the_fixed_point_as_it_is_known_to(w, mean, std):
    g = torch.Generator().manual_seed(0)
    a, b = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (0.0, 0.9))
    optimiser = torch.optim.Adam([a, b], 2e-2, betas=(0.0, 0.999))
    for step in range(600):
        optimiser.param_groups[0]["lr"] = 2e-2 * (1 - step / 600)
        (z, e), u = torch.randn(2, 2048, generator=g).double(), torch.rand(2048, generator=g)
        sigma = (5 * u / (1 + 4 * u)).clamp(0.02, 0.98).double()
        y = a + b * z
        noisy = ((1 - sigma) * y + sigma * e).detach()
        teacher = guided(
            posterior_mean(noisy, sigma, 0, 1), posterior_mean(noisy, sigma, 1, 0.5), w
        )
        critic = posterior_mean(noisy, sigma, a.item(), abs(b.item()))
        shape = (1, 1, 1, 1, -1)
        made = (x.detach().view(shape) for x in (y, critic, teacher))
        field = gradient_field(matching_gradient(*made), torch.tensor([True]))
        optimiser.zero_grad()
        (y.view(shape) * field).sum().backward()
        optimiser.step()
    assert a.item() == pytest.approx(mean, abs=0.05)
    assert abs(b.item()) == pytest.approx(std, abs=0.05)


def clips(seed=0, count=3):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(3, count, 4, 2, 3, 3, generator=g).double().unbind(0)


@pytest.mark.parametrize("frames", [[1, 1, 1, 1], [0, 0, 1, 1]])
def test_the_field_is_what_autograd_says_of_the_surrogate(frames):
    y, critic, teacher = clips()
    y.requires_grad_()
    chosen = torch.tensor(frames, dtype=torch.bool)
    gradient = matching_gradient(y.detach(), critic, teacher)
    (slope,) = torch.autograd.grad(surrogate(y, gradient, chosen), y)
    torch.testing.assert_close(slope, gradient_field(gradient, chosen), atol=1e-15, rtol=1e-12)
    assert (slope[:, ~chosen] == 0).all()


def test_a_critic_that_agrees_with_the_teacher_moves_nothing():
    y, critic, _ = clips()
    assert (matching_gradient(y, critic, critic) == 0).all()
    assert (matching_gradient(critic, critic, critic) == 0).all(), "0 / 0 counts as 0"


def test_samples_are_normalised_each_by_itself():
    y, critic, teacher = clips()
    whole = matching_gradient(y, critic, teacher)
    order = torch.tensor([2, 0, 1])
    torch.testing.assert_close(
        matching_gradient(y[order], critic[order], teacher[order]), whole[order]
    )
    louder = matching_gradient(y[:1], teacher[:1] + 9 * (critic - teacher)[:1], teacher[:1])
    torch.testing.assert_close(louder, 9 * whole[:1])


def test_guidance_of_one_is_the_conditional_estimate():
    u, c, _ = clips()
    torch.testing.assert_close(guided(u, c, 1.0), c)
    torch.testing.assert_close(guided(u, c, 0.0), u)
    torch.testing.assert_close(guided(u, c, 4.0), c + 3.0 * (c - u))


def test_a_loss_on_velocities_is_one_on_clean_estimates_over_sigma_squared():
    clean, noise, guess = clips()
    sigma = torch.full(clean.shape[:2], 0.3, dtype=torch.float64)
    noisy = 0.7 * clean + 0.3 * noise
    network = attrs.make_class("Net", ["config"])(attrs.make_class("C", ["prediction"])("x0"))
    loss = flow_loss(to_velocity(network, guess, noisy, sigma), clean, noise)
    torch.testing.assert_close(loss, (guess - clean).square().mean() / 0.3**2)


def test_a_loss_on_clean_estimates_is_bounded_where_velocities_explode():
    clean, noise, guess = clips()
    network = attrs.make_class("Net", ["config"])(attrs.make_class("C", ["prediction"])("x0"))
    for level in (0.02, 0.3, 1.0):
        sigma = torch.full(clean.shape[:2], level, dtype=torch.float64)
        noisy = (1 - level) * clean + level * noise
        velocity, weight = to_velocity(network, guess, noisy, sigma), level_weights(sigma, "clean")
        loss = flow_loss(velocity, clean, noise, weight[..., None, None, None])
        torch.testing.assert_close(loss, (guess - clean).square().mean() / (level**2 + 0.2))
    assert (level_weights(sigma, "velocity") == 1).all()


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("flow-matching", "teacher"),
        ("ode-regression", "student"),
        ("dmd", "critic"),
        ("dmd", "student"),
    ],
)
def test_elements_that_weigh_nothing_teach_nothing(name, role):
    """The bias of a channel without weight gets no gradient, that of the others does."""
    objective = t.objective(name, t.context(slots=2))
    networks, source = t.networks(*objective.roles, *objective.frozen), t.Clips()
    heavy = torch.ones(source.draw((1,)).portrait.shape[2:])
    heavy[-1] = 0
    batch = Weighted(source, heavy).draw((1, 2))
    assert batch.weights is not None and batch.weights.mean() == pytest.approx(1)
    objective.backward(t.turn(role), networks, batch)
    bias = networks[role].head.head.bias.grad.unflatten(0, (-1, len(heavy)))
    assert bias[:, -1].abs().sum() == 0 and bias[:, :-1].abs().min() > 0


def moved(plan, frames, changed, model=None):
    """Which frames a change of one input frame reaches."""
    model, b = model or tiny.make(layers=2), t.batch(1, frames)
    sigma = torch.full((1, frames), 0.5)
    before = predict(model, b.clip, sigma, t.conditions(b), plan)
    other = b.clip.clone()
    other[:, changed] += 1
    after = predict(model, other, sigma, t.conditions(b), plan)
    return [bool(x) for x in ((after - before).abs().amax((0, 2, 3, 4)) > 1e-6)]


@torch.no_grad()
@pytest.mark.parametrize("changed", range(6))
def test_in_the_block_causal_mask_a_block_sees_no_later_block(changed):
    anchors = DualAnchorCache(DualAnchorConfig(temporal_budget=8))
    seen = moved(block_causal(anchors, 3, 2), 6, changed)
    assert seen == [frame // 2 >= changed // 2 for frame in range(6)]


@torch.no_grad()
def test_the_block_causal_mask_keeps_to_the_temporal_budget():
    anchors = DualAnchorCache(DualAnchorConfig(temporal_budget=2))
    one_layer = tiny.make(layers=1)
    assert moved(block_causal(anchors, 4, 2), 8, 0, one_layer) == [True] * 4 + [False] * 4


@torch.no_grad()
@pytest.mark.parametrize("changed", [0, 5])
def test_the_teacher_sees_both_ways_in_time(changed):
    assert moved(bidirectional(6), 6, changed) == [True] * 6


@torch.no_grad()
def test_a_window_over_the_clean_past_is_seen_by_nothing_before_it():
    anchors = DualAnchorCache(DualAnchorConfig(temporal_budget=2))
    plan = over_clean_past(anchors, 1, 2, 2)
    assert moved(plan, 6, 5) == [True] * 4, "the window is joint"
    assert moved(plan, 6, 1) == [True] * 4, "the past is seen"


def role_names(objective):
    return {*objective.roles, *objective.frozen}


def networks_for(objective):
    return {
        role: tiny.make(layers=2, seed=i) for i, role in enumerate(sorted(role_names(objective)))
    }


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("step", [0, 1])
def test_a_turn_gives_gradients_to_its_own_role_alone(name, step):
    objective = t.objective(name)
    for role in objective.turns(step):
        networks = networks_for(objective)
        for frozen in objective.frozen:
            networks[frozen].requires_grad_(False)
        before = {n: [p.clone() for p in net.parameters()] for n, net in networks.items()}
        losses = objective.backward(t.turn(role, step), networks, t.batch(states=5))
        assert losses["loss"].isfinite() and not losses["loss"].requires_grad
        for other, net in networks.items():
            assert bool(t.gradients(net)) == (other == role), (role, other)
            assert all(torch.equal(p, q) for p, q in zip(net.parameters(), before[other]))


def test_the_student_moves_at_every_fifth_step_and_the_critic_at_each():
    objective = t.objective("dmd")
    assert [objective.turns(s) for s in (0, 1, 4, 5)] == [
        ("student", "critic"), ("critic",), ("critic",), ("student", "critic")
    ]  # fmt: skip


@pytest.mark.parametrize("name", ALL)
def test_micro_batches_add_up_to_the_batch(name):
    objective, whole = t.objective(name), t.batch(4, states=5)
    for role in objective.turns(0):
        networks = networks_for(objective)
        objective.backward(t.turn(role), networks, whole)
        wanted = t.gradients(networks[role])
        networks[role].zero_grad()
        for rows in (slice(0, 2), slice(2, 4)):
            objective.backward(t.turn(role, share=0.5), networks, t.part(whole, rows))
        for key, value in t.gradients(networks[role]).items():
            torch.testing.assert_close(value, wanted[key], atol=1e-5, rtol=1e-3)


def test_dropout_of_audio_and_text_takes_its_share_and_no_more():
    many = t.batch(400, frames=2, text=True)
    given = dropped(FlowMatchingOptions(audio_dropout=0.3, text_dropout=0.1), many)
    deaf, blind = ((x == 0).flatten(1).all(1) for x in (given.rows, given.text))
    assert deaf.float().mean().item() == pytest.approx(0.3, abs=0.07)
    assert blind.float().mean().item() == pytest.approx(0.1, abs=0.05)
    assert (deaf & blind).float().mean().item() == pytest.approx(0.03, abs=0.03)
    assert torch.equal(given.rows[~deaf], many.rows[~deaf])
    assert torch.equal(given.portrait, many.portrait)


def test_states_are_taken_at_their_rungs_noise_first():
    states = torch.arange(5.0).view(1, 5, 1, 1, 1, 1).expand(1, 5, 4, 1, 1, 1)
    taken = at_rungs(states, torch.tensor([[0, 1, 2, 3]])).flatten().tolist()
    assert taken == [3, 2, 1, 0], "rung 3 is pure noise, state 4 is the clean end"


class Oracle:
    """A student whose velocity is (x_s - x_end) / s: the perfect regressor."""

    config = tiny.make(layers=1).config

    def __init__(self, end):
        self.end, self.nudge = end, torch.zeros((), requires_grad=True)

    def denoise(self, latents, timesteps, rows, portrait, plan, text=None, memory=None):
        sigma = timesteps[:, plan.num_silent :, None, None, None] / 1000
        first = plan.num_silent - 1
        end = self.end[:, first : first + sigma.shape[1]]
        return (latents[:, plan.num_silent :] - end) / sigma + self.nudge


@pytest.mark.parametrize(("name", "options"), [("ode-regression", {}), ("causal-ode", {}),
                                               ("ode-regression", {"mask": "window"})])  # fmt: skip
def test_a_student_that_knows_the_end_has_no_loss_at_any_rung(name, options):
    objective, b = t.objective(name, **options), attrs.evolve(t.batch(8, states=5), clip=None)
    for seed in range(8):
        student = Oracle(b.states[:, -1])
        losses = objective.backward(t.turn("student", seed=seed), {"student": student}, b)
        assert losses["loss"] < 1e-10
        assert student.nudge.grad is not None


@pytest.mark.parametrize("mask", ["block_causal", "window"])
def test_below_the_top_fresh_noise_may_stand_on_the_end_of_a_trajectory(mask):
    objective, b = t.objective("ode-regression", mask=mask, below_top="renoised"), t.batch(40)
    end = torch.randn(40, t.FRAMES, *b.portrait.shape[2:])
    nothing = [torch.full_like(end, float("nan"))] * 3  # states in between are not looked at
    b = attrs.evolve(b, states=torch.stack([torch.zeros_like(end), *nothing, end], 1))
    seen = set()
    for seed in range(20):
        task = objective.cut(objective, t.turn("student", seed=seed), b, b.states)
        sigma = objective.scheduler.sigmas[task.rung][..., None, None, None]
        noise = (task.noisy - (1 - sigma) * task.target) / sigma
        assert (task.noisy[task.rung == 3] == 0).all(), "the trajectory's own noise"
        below = noise[task.rung < 3]
        assert below.isfinite().all()
        seen |= {*task.rung.unique().tolist()}
    assert seen == {0, 1, 2, 3}
    assert 0.5 < noise[task.rung < 3].std() < 2


def test_rungs_are_shared_within_a_block_and_free_across_blocks():
    objective, b = t.objective("ode-regression"), t.batch(400, states=5)
    task = objective.cut(objective, t.turn("student"), b, b.states)
    rung = task.rung.view(400, t.BLOCKS, t.BLOCK)
    assert (rung == rung[..., :1]).all()
    counts = torch.bincount(rung[:, :, 0].flatten(), minlength=4).float()
    assert ((counts - 300).square() / 300).sum() < 16.3, "chi-square, 3 degrees, p = .001"
    pairs = torch.bincount(rung[:, 0, 0] * 4 + rung[:, 1, 0], minlength=16).float()
    assert ((pairs - 25).square() / 25).sum() < 37.7, "15 degrees, p = .001"


def test_the_window_mask_cuts_the_windows_of_a_stream():
    objective, b = t.objective("ode-regression", mask="window"), t.batch(1, states=5)
    found = set()
    for seed in range(60):
        task = objective.cut(objective, t.turn("student", seed=seed), b, b.states)
        found.add((task.past.shape[1] // t.BLOCK, *task.rung[0, :: t.BLOCK].tolist()))
    assert found == {(0, 3), (0, 2, 3), (0, 1, 2, 3), (0, 0, 1, 2), (1, 0, 1), (2, 0)}


def test_what_a_batch_lacks_is_named():
    bare = attrs.evolve(t.batch(), clip=None)
    model = {"teacher": tiny.make(layers=1), "student": tiny.make(layers=1)}
    with pytest.raises(ConfigError, match="clips"):
        t.objective("flow-matching").backward(t.turn("teacher"), model, bare)
    with pytest.raises(ConfigError, match="backfill"):
        t.objective("ode-regression").backward(t.turn("student"), model, bare)
    with pytest.raises(ConfigError, match="needs 5 states"):
        t.objective("ode-regression").backward(t.turn("student"), model, t.batch(states=4))
    with pytest.raises(ConfigError, match="lies outside"):
        t.objective("dmd", mix_self_forcing=1.5)
    with pytest.raises(ConfigError, match="needs a noise_schedule"):
        t.objective("dmd", attrs.evolve(t.context(), stages={}))


def test_predictions_of_clean_latents_and_of_velocities_agree():
    model, b = tiny.make(layers=2), t.batch()
    sigma = torch.full(b.clip.shape[:2], 0.4)
    plan = bidirectional(t.FRAMES)
    with torch.no_grad():
        velocity = predict(model, b.clip, sigma, t.conditions(b), plan)
        clean = predict_clean(model, b.clip, sigma, t.conditions(b), plan)
    torch.testing.assert_close(clean, b.clip - 0.4 * velocity)


@torch.no_grad()
def test_a_silent_portrait_among_others_is_heard_by_them_all_the_same():
    model, b = tiny.make(layers=2), t.batch()
    sigma, plan = torch.full(b.clip.shape[:2], 0.4), bidirectional(t.FRAMES)
    silent = predict(model, b.clip, sigma, t.conditions(b), plan)
    spoken = predict(model, b.clip, sigma, t.conditions(b), attrs.evolve(plan, num_silent=0))
    torch.testing.assert_close(silent, spoken[:, 1:], atol=1e-6, rtol=0)


def test_the_objective_of_the_documentation_can_be_named_and_trained():
    text = (ROOT / "docs" / "training.md").read_text()
    plugin = ModuleType("huber")
    exec(re.search(r"```python\n(import attrs.*?)```", text, re.S).group(1), vars(plugin))
    offer = load_catalog(extra=[("af-huber", plugin)]).get("objective", "huber")
    huber = offer.config(delta=0.3).build(t.context())
    models = {"teacher": tiny.make(layers=2)}
    assert huber.backward(t.turn("teacher"), models, t.batch())["loss"] > 0
    assert t.gradients(models["teacher"])
