"""The noise schedule against the authors' tables, and the windows' bookkeeping."""

from pathlib import Path

import numpy as np
import pytest
import torch
from af_core.errors import ConfigError
from af_core.schedules.config import RectifiedFlowConfig
from af_core.schedules.rectified_flow import RectifiedFlow
from af_core.windows.config import LocalFutureConfig
from af_core.windows.local_future import LocalFutureScheduler

FIXTURE = np.load(Path(__file__).parents[1] / "fixtures" / "avatarforcing_stream6.npz")
FLOW = RectifiedFlow()


def test_tables_are_the_authors_bit_for_bit():
    assert np.array_equal(FLOW.sigmas.numpy(), FIXTURE["sched_sigmas"])
    assert np.array_equal(FLOW.table.numpy(), FIXTURE["sched_timesteps"])


def test_the_ladder_is_the_authors_warped_steps_bit_for_bit():
    timesteps = FLOW.timesteps(FLOW.ladder(4)).flip(0)
    assert np.array_equal(timesteps.numpy(), FIXTURE["denoise_steps"])
    torch.testing.assert_close(
        FLOW.ladder(4), torch.tensor([0.5555556, 0.7692308, 0.9523810, 1.0]), atol=1e-7, rtol=0
    )


def test_unwarped_steps_are_the_nearest_entries_of_the_table():
    ladder = RectifiedFlow(RectifiedFlowConfig(warp=False)).ladder(4).flip(0)
    wanted = torch.tensor([1.0, 0.79971, 0.40082, 0.20134])
    torch.testing.assert_close(ladder, wanted, atol=1e-5, rtol=0)


def test_timestep_zero_is_the_last_entry():
    assert float(FLOW.sigma_at(torch.tensor(0.0))) == pytest.approx(0.00498, abs=1e-5)


@pytest.mark.parametrize("rungs", [1, 2, 3, 8, 16, 32])
def test_any_ladder_rises_from_above_zero_to_one(rungs):
    ladder = FLOW.ladder(rungs)
    assert len(ladder) == rungs
    assert float(ladder[-1]) == 1.0
    assert float(ladder[0]) > 0
    assert (ladder.diff() > 0).all()


def test_an_explicit_ladder_is_kept_and_its_length_checked():
    flow = RectifiedFlow(RectifiedFlowConfig(levels=(1, 0.8, 0.5, 0.25)))
    assert flow.ladder(4).tolist() == pytest.approx([0.25, 0.5, 0.8, 1.0])
    with pytest.raises(ConfigError, match=r"4 levels.*L \* N = 2"):
        flow.ladder(2)


@pytest.mark.parametrize("levels", [(0.9, 0.5), (1.0, 0.5, 0.7), (1.0, 0.0), ()])
def test_a_ladder_that_does_not_fall_from_one_is_refused(levels):
    with pytest.raises(ConfigError, match="begin at 1, fall"):
        RectifiedFlow(RectifiedFlowConfig(levels=levels))


def test_noise_added_is_taken_away_by_the_true_velocity():
    clean, noise = torch.randn(2, 3), torch.randn(2, 3)
    for sigma in (torch.tensor(1.0), torch.tensor(0.3)):
        noisy = FLOW.add_noise(clean, noise, sigma)
        torch.testing.assert_close(FLOW.to_clean(noise - clean, noisy, sigma), clean)
    assert torch.equal(FLOW.add_noise(clean, noise, torch.tensor(1.0)), noise)


def test_the_clean_estimate_is_computed_in_double_precision():
    noisy, velocity = torch.tensor([1.0000001]), torch.tensor([1.0])
    sigma = torch.tensor(0.99999994)
    wanted = (noisy.double() - sigma.double() * velocity.double()).float()
    assert torch.equal(FLOW.to_clean(velocity, noisy, sigma), wanted)


def test_an_x0_prediction_is_taken_as_it_is():
    flow, x = RectifiedFlow(RectifiedFlowConfig(prediction="x0")), torch.randn(3)
    assert flow.to_clean(x, torch.zeros(3), torch.tensor(0.5)) is x


@pytest.mark.parametrize(("slots", "passes"), [(0, 1), (4, 0)])
def test_a_window_without_slots_or_passes_is_refused(slots, passes):
    with pytest.raises(ConfigError, match="at least 1"):
        LocalFutureScheduler(FLOW, LocalFutureConfig(num_slots=slots, num_passes=passes))
