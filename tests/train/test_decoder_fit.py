"""The closed form of the decoder is the minimum of what it says it minimises."""

import attrs
import pytest
import torch
from af_core.models.tiny_vae import TinyVAE, TinyVAEConfig
from af_train.recipes.toon_decoder import RIDGE, fit_decoder, measure, regressors, solve

SMALL = TinyVAEConfig(
    latent_channels=3,
    patch_size=2,
    encoder_channels=(),
    encoder_blocks=(),
    encoder_time=(),
    encoder_space=(),
    decoder_channels=(),
    decoder_blocks=(),
    decoder_time=(4,),
    decoder_space=(1,),
    shortcut=True,
    shortcut_context=True,
)
BORDER_WEIGHT = 5.0


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return TinyVAE(SMALL).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def clips():
    rng = torch.Generator().manual_seed(1)
    still = torch.randint(0, 256, (40, 1, 3, 8, 8), generator=rng)
    change = torch.randint(-40, 41, (40, 13, 3, 8, 8), generator=rng).cumsum(1)
    return (still + change).clamp(0, 255).to(torch.uint8)


@pytest.fixture(scope="module")
def weights():
    return 1 + torch.arange(16.0).view(4, 4) / 4


def objective(maps, model, clips, weights):
    """The sum in the module's text, term by term."""
    video = clips.double() / 255
    u = regressors(model.encode(video.float())[0]).double()
    x = model.fold(video[:, 1:]).flatten(3).transpose(2, 3)
    x = x.unflatten(-1, (4, -1))  # [b, k, cell, frame, p]
    made = torch.einsum("tnp,bkcn->bkctp", maps, u)
    w = weights.flatten().double()[:, None]
    error = ((made - x).square().sum(-1) * w).sum()
    step = (made[:, 1:, :, 0] - made[:, :-1, :, 3]) - (x[:, 1:, :, 0] - x[:, :-1, :, 3])
    jump = (step.square() * w).sum()
    ridge = RIDGE * w.sum() * u.shape[0] * u.shape[1] * maps.square().sum()
    return error + BORDER_WEIGHT * jump + ridge


def test_no_step_in_any_direction_lowers_what_the_fit_minimises(model, clips, weights):
    maps = solve(measure(model, clips, weights), 4, BORDER_WEIGHT).double().requires_grad_(True)
    value = objective(maps, model, clips, weights)
    (slope,) = torch.autograd.grad(value, maps)
    start = torch.zeros_like(maps, requires_grad=True)
    (slope_of_nothing,) = torch.autograd.grad(objective(start, model, clips, weights), start)
    assert slope.norm() < 1e-4 * slope_of_nothing.norm()


def test_moments_of_parts_add_up(model, clips, weights):
    whole = measure(model, clips, weights)
    parts = measure(model, clips[:7], weights) + measure(model, clips[7:], weights)
    for a, b in zip(attrs.astuple(whole), attrs.astuple(parts), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_the_fitted_decoder_draws_what_the_maps_say(clips, weights):
    torch.manual_seed(0)
    model = TinyVAE(SMALL).eval().requires_grad_(False)
    maps = solve(measure(model, clips[:15], weights), 4, 0.0)
    fit_decoder(model, clips[:15], weights, border_weight=0.0)
    latents = model.encode(clips[:2].float() / 255)[0]
    drawn = model.decode(latents)[0][:, 1:]
    patches = torch.einsum("tnp,bkcn->bktpc", maps, regressors(latents))
    expected = torch.nn.functional.pixel_shuffle(patches.flatten(1, 2).unflatten(3, (4, 4)), 2)
    torch.testing.assert_close(drawn, expected, rtol=1e-3, atol=1e-4)


def test_the_border_term_makes_jumps_truer_and_pictures_hardly_worse(clips, weights):
    def errors(border_weight):
        torch.manual_seed(0)
        model = TinyVAE(SMALL).eval().requires_grad_(False)
        fit_decoder(model, clips, weights, border_weight)
        truth = clips.float() / 255
        made = model.decode(model.encode(truth)[0])[0]
        jumps = (made.diff(dim=1) - truth.diff(dim=1))[:, 4::4]
        return float(jumps.square().mean()), float((made - truth)[:, 1:].square().mean())

    jump, error = errors(0.0)
    jump_with, error_with = errors(BORDER_WEIGHT)
    assert jump_with < 0.9 * jump
    assert error_with < 1.3 * error
