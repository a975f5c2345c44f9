"""Measures against libraries, closed forms and planted faults."""

import numpy as np
import pytest
import torch
from af_train.metrics import signals
from scipy.stats import pearsonr


def test_correlation_is_pearsons_r():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=200), rng.normal(size=200)
    b = 0.5 * a + b
    assert signals.correlation(torch.tensor(a), torch.tensor(b)) == pytest.approx(pearsonr(a, b)[0])


def test_a_constant_track_correlates_with_nothing():
    assert signals.correlation(torch.ones(10), torch.arange(10.0)) == 0


@pytest.mark.parametrize("late", [-3, 0, 2])
def test_best_lag_finds_a_planted_delay(late):
    true = torch.randn(300, generator=torch.Generator().manual_seed(1))
    assert signals.best_lag(torch.roll(true, late), true) == late


def test_colour_drift_is_ciede2000_of_mean_colours():
    frames = np.full((100, 8, 8, 3), 128, np.uint8)
    assert signals.colour_drift(frames) == 0
    frames[-25:] = 140
    assert 3 < signals.colour_drift(frames) < 6


def test_border_jump_is_one_for_even_motion_and_grows_with_a_step_at_each_border():
    even = torch.arange(0, 240, 2, dtype=torch.uint8)[:, None, None, None].expand(-1, 4, 4, 3)
    assert signals.border_jump(even, 4) == pytest.approx(1)
    stepped = (torch.arange(120) // 4 * 6 + torch.arange(120) % 4).to(torch.uint8)
    assert signals.border_jump(
        stepped[:, None, None, None].expand(-1, 4, 4, 3), 4
    ) == pytest.approx(3)


def test_blur_loses_sharpness():
    noise = torch.randint(0, 255, (2, 32, 32, 3), generator=torch.Generator().manual_seed(0))
    blurred = torch.nn.functional.avg_pool2d(noise.permute(0, 3, 1, 2).float(), 3, 1, 1)
    assert signals.sharpness(blurred.permute(0, 2, 3, 1)) < 0.2 * signals.sharpness(noise)


def test_blinks_are_counted_once_each():
    lids = torch.zeros(100)
    lids[10:14], lids[50:52], lids[80:99] = 1, 0.9, 0.7
    assert signals.count_blinks(lids) == 3
