"""The loop: resumes exactly, averages weights, and Muon turns updates orthogonal."""

import pytest
import torch
from af_train.loop import FitConfig, fit, learning_rate
from af_train.muon import Muon, orthogonalise
from af_train.recipes.settings import SettingError, parse_settings
from torch import nn


def problem():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 2))

    def losses_at(step):
        rng = torch.Generator().manual_seed(step)
        x = torch.randn(16, 6, generator=rng)
        return {"loss": (model(x) - x[:, :2].sin()).square().mean()}

    return model, losses_at


@pytest.mark.parametrize("optimiser", ["adamw", "muon"])
def test_k_and_k_steps_are_2k_steps(tmp_path, optimiser):
    config = FitConfig(40, optimiser=optimiser, save_every=20, log_every=20)
    model, losses_at = problem()
    whole = fit(model, losses_at, config, tmp_path / "whole")

    class Killed(Exception):
        pass

    def stop(step, weights):
        raise Killed

    model, losses_at = problem()
    with pytest.raises(Killed):
        fit(model, losses_at, config, tmp_path / "halves", on_save=stop)
    model, losses_at = problem()
    halves = fit(model, losses_at, config, tmp_path / "halves")
    for name, value in whole.items():
        assert torch.equal(value, halves[name]), name


@pytest.mark.parametrize("optimiser", ["adamw", "muon"])
def test_training_lowers_the_loss(tmp_path, optimiser):
    model, losses_at = problem()
    before = losses_at(0)["loss"].item()
    config = FitConfig(300, optimiser=optimiser, learning_rate=0.02)
    model.load_state_dict(fit(model, losses_at, config, tmp_path))
    assert losses_at(0)["loss"].item() < 0.5 * before


def test_the_learning_rate_warms_up_and_falls_to_its_last_share():
    config = FitConfig(1000, learning_rate=1.0, warmup_steps=10)
    assert learning_rate(config, 0) == pytest.approx(0.1)
    assert learning_rate(config, 10) == pytest.approx(1.0, abs=1e-3)
    assert learning_rate(config, 1000) == pytest.approx(config.final_learning_rate_ratio)


@pytest.mark.parametrize("shape", [(8, 8), (5, 20), (20, 5)])
def test_orthogonalised_matrices_have_singular_values_near_one(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    turned = orthogonalise(matrix)
    values = torch.linalg.svdvals(turned)
    assert values.min() > 0.5 and values.max() < 1.4
    assert torch.cosine_similarity(turned.flatten(), (u @ v).flatten(), 0) > 0.95


def test_muon_steps_vectors_as_adam_does():
    ours, theirs = (nn.Parameter(torch.ones(5)) for _ in range(2))
    muon = Muon([], [ours], lr=0.1)
    adam = torch.optim.Adam([theirs], lr=0.01, betas=(0.9, 0.98))
    for step in range(5):
        for parameter, optimiser in ((ours, muon), (theirs, adam)):
            parameter.grad = torch.arange(5.0) - step
            optimiser.step()
    assert torch.allclose(ours, theirs, atol=1e-6)


def test_a_misspelt_setting_names_the_right_one():
    with pytest.raises(SettingError, match="learning_rate"):
        parse_settings(FitConfig, ["steps=3", "learnin_rate=1"])
    assert parse_settings(FitConfig, ["steps=3", "learning_rate=0.5"]).learning_rate == 0.5
