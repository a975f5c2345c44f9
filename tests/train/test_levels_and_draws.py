"""Noise levels against closed forms; randomness by sample."""

from itertools import pairwise

import pytest
import torch
from af_train import draws
from af_train.levels import (
    GridError,
    euler_grid,
    grid_indices,
    logit_normal,
    score_sigmas,
    shifted,
    unshifted,
)
from hypothesis import given
from hypothesis import strategies as st

PUBLISHED = (1.0, 0.8, 0.4, 0.2)
"""Pre-shift levels of AvatarForcing's ladder."""


@given(u=st.floats(0, 1), k=st.floats(0.2, 20))
def test_the_shift_map_is_undone_and_keeps_its_ends(u, k):
    assert unshifted(shifted(u, k), k) == pytest.approx(u, abs=1e-12)
    assert shifted(0.0, k) == 0 and shifted(1.0, k) == pytest.approx(1)
    assert shifted(u, 1.0) == u


def test_the_published_ladders_are_reached():
    assert [1000 * shifted(u, 5) for u in PUBLISHED] == pytest.approx(
        [1000, 952.381, 769.231, 555.556], abs=1e-3
    )
    assert [1000 * shifted(u, 5) for u in (1, 0.75, 0.5, 0.25)] == pytest.approx(
        [1000, 937.5, 833.333, 625], abs=1e-3
    )


def test_an_euler_grid_goes_from_one_to_exactly_zero_without_rising():
    grid = euler_grid(50, 5)
    assert len(grid) == 51 and grid[0] == 1 and grid[-1] == 0
    assert all(a > b for a, b in pairwise(grid))


@pytest.mark.parametrize("steps", [10, 40, 50])
def test_the_published_ladder_stands_on_grids_of_fives(steps):
    sigmas = [shifted(u, 5) for u in PUBLISHED]
    places = grid_indices(sigmas, steps, 5)
    assert places == tuple(steps * i // 5 for i in (0, 1, 3, 4))
    assert [euler_grid(steps, 5)[i] for i in places] == pytest.approx(sigmas)


def test_a_ladder_off_the_grid_is_refused_with_grids_that_would_do():
    with pytest.raises(GridError, match=r"step 9\.60.*num_steps=20 or 25 or 30"):
        grid_indices([shifted(u, 5) for u in PUBLISHED], 48, 5)
    with pytest.raises(GridError, match="shift 8"):
        grid_indices([shifted(u, 5) for u in PUBLISHED], 50, 8)


def test_scores_are_compared_at_the_known_law_of_levels():
    sigma = score_sigmas(torch.arange(100_000) / 100_000, 5, 0.02, 0.98)
    at_top = (sigma == torch.tensor(0.98)).float().mean().item()
    assert at_top == pytest.approx(0.092, abs=2e-3)
    assert (1000 * sigma).median().item() == pytest.approx(833, abs=1)
    assert (1000 * sigma).mean().item() == pytest.approx(746, abs=1)


def test_logit_normal_levels_have_their_median_where_the_shift_puts_one_half():
    sigma = logit_normal(torch.linspace(-4, 4, 10_001), 3.0)
    assert sigma.median().item() == pytest.approx(shifted(0.5, 3.0), abs=1e-6)


def test_a_sample_draws_the_same_in_any_batch():
    seeds = draws.sample_seeds(7, 3, "critic", range(6))
    like = torch.zeros(6, 2, 3)
    whole = draws.normal(seeds, "noise", like)
    assert torch.equal(whole[2:4], draws.normal(seeds[2:4], "noise", like[2:4]))
    assert len({*seeds, *draws.sample_seeds(7, 4, "critic", range(6))}) == 12


def test_purposes_are_independent():
    seeds, like = draws.sample_seeds(0, 0, "a", range(64)), torch.zeros(64, 50)
    a, b = draws.normal(seeds, "noise", like), draws.normal(seeds, "score noise", like)
    assert abs(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1]) < 0.05


def test_what_ranks_share_depends_on_the_step_alone():
    pick = [draws.shared(1, step, "student").randrange(10**9) for step in (0, 0, 1)]
    assert pick[0] == pick[1] != pick[2]
