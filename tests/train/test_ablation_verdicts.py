"""The rule for claims against closed forms; the paper's tables; Frechet distances from moments."""

import numpy as np
import pytest
from af_train.ablation.paper import OURS, TABLES
from af_train.ablation.verdicts import (
    Decision,
    Estimate,
    Frechet,
    Means,
    Moments,
    decide,
    estimate,
    judge,
    resamples,
    tally,
)
from af_train.metrics.frechet import frechet_distance
from hypothesis import given, settings
from hypothesis import strategies as st


def shifted(by, seeds=4, clips=40, noise=0.1, seed=0):
    """Two rows that share what a clip is like and differ by ``by`` on average."""
    rng = np.random.default_rng(seed)
    clip = rng.normal(5, 2, (1, clips)) + rng.normal(0, noise, (seeds, clips))
    return Means(clip + by + rng.normal(0, noise, clip.shape)), Means(clip)


@pytest.mark.parametrize(
    ("by", "higher", "verdict"),
    [
        (1.0, True, "reproduced"),
        (-1.0, True, "not reproduced"),
        (-1.0, False, "reproduced"),
        (1.0, False, "not reproduced"),
    ],
)
def test_a_difference_that_is_there_is_found_and_has_its_sign(by, higher, verdict):
    decision = decide(*shifted(by), higher_is_better=higher)
    assert decision.verdict == verdict
    sign = 1 if higher else -1
    assert decision.advantage is not None
    assert decision.advantage.value == pytest.approx(sign * by, abs=0.05)


def test_pairing_sees_what_clips_alone_would_hide():
    first, second = shifted(0.3)
    assert decide(first, second, higher_is_better=True).verdict == "reproduced"
    apart = estimate(first), estimate(second)
    assert apart[0].low < apart[1].high  # the rows' own intervals overlap


def test_rows_that_are_equal_show_no_difference_and_few_noisy_ones_decide_nothing():
    assert decide(*shifted(0.0), higher_is_better=True).verdict == "not reproduced"
    rough = np.tile([[1.0, -1.2, 0.4], [-0.8, 1.0, -0.3]], 3)
    level = np.full((2, 9), 5.0)
    assert decide(Means(level + rough), Means(level), higher_is_better=True).verdict == "undecided"


def test_clips_that_agree_prove_nothing_while_they_are_few():
    level = np.full((1, 5), 5.0)
    few = decide(Means(level + 1), Means(level), higher_is_better=True)
    assert few.verdict == "undecided" and few.advantage.low == 1
    assert few.why == "5 clips, 6 are needed"
    level = np.full((2, 6), 10.0)
    worse = decide(Means(level), Means(level + 1), higher_is_better=True)
    assert (worse.verdict, worse.why) == ("not reproduced", "reversed")
    same = decide(Means(level), Means(level), higher_is_better=True)
    assert (same.verdict, same.why) == ("not reproduced", "no difference")
    level = np.full((1, 6), 5.0)
    enough = decide(Means(level + 1), Means(level), higher_is_better=True)
    assert enough.verdict == "reproduced"


def test_seeds_that_disagree_leave_a_claim_undecided_however_many_clips():
    signs = np.array([1.0, -1.0, 1.0])[:, None]
    first = Means(5 + signs * np.ones((3, 1000)))
    assert decide(first, Means(np.full((3, 1000), 5.0)), higher_is_better=True).verdict == (
        "undecided"
    )


@settings(deadline=None)
@given(
    st.floats(-10, 10, allow_subnormal=False),
    st.floats(0, 10, allow_subnormal=False),
    st.floats(0, 5, allow_subnormal=False),
)
def test_every_interval_has_one_verdict(low, width, negligible):
    verdict = judge(Estimate(low + width / 2, low, low + width), negligible)
    assert (verdict == "reproduced") == (low > 0)
    if verdict == "undecided":
        assert low <= 0 <= low + width
        assert max(-low, low + width) >= negligible


def test_resamples_count_seeds_and_clips_crosswise():
    weights = resamples(3, 5, 2000)
    assert (weights.sum((1, 2)) == 15).all()
    assert weights.mean() == pytest.approx(1, abs=0.05)
    first = weights[0]
    assert np.linalg.matrix_rank(first) == 1  # a clip counts alike in every seed


def test_the_interval_of_a_mean_is_that_of_the_normal_law():
    values = np.random.default_rng(1).normal(0, 1, (1, 400))
    found = estimate(Means(values, num_resamples=4000))
    half = 1.96 * values.std() / 20
    assert found.high - found.low == pytest.approx(2 * half, rel=0.08)


def test_a_frechet_distance_of_moments_is_that_of_the_features():
    rng = np.random.default_rng(2)
    made, true = rng.normal(0, 1, (2, 6, 30, 4)), rng.normal(0.3, 1.5, (2, 6, 30, 4))
    statistic = Frechet(Moments.of(made), Moments.of(true))
    whole = statistic.under(np.ones((2, 6)))
    assert whole == pytest.approx(frechet_distance(made.reshape(-1, 4), true.reshape(-1, 4)))
    twice = np.zeros((2, 6))
    twice[0, 1], twice[1, 3] = 2, 1
    chosen = [np.concatenate([x[0, 1], x[0, 1], x[1, 3]]) for x in (made, true)]
    assert statistic.under(twice) == pytest.approx(frechet_distance(*chosen))


def test_verdicts_are_counted_and_what_was_not_measured_is_not():
    decisions = [Decision("reproduced"), Decision("undecided"), Decision("not measured")]
    assert tally(decisions) == {"reproduced": 1, "not reproduced": 0, "undecided": 1}


def test_claims_are_the_orderings_of_the_papers_numbers():
    found = {(c.first, c.second, c.column) for c in TABLES["table5"].claims()}
    assert (OURS, "no_reindex", "csim_last") in found
    assert (OURS, "no_zeroing", "sync_d") in found
    assert len(found) == 20
    speed = [c for c in TABLES["table6"].claims() if c.column == "latency"]
    assert {c.second for c in speed} == {OURS}  # the baselines are faster in the paper
    grid = {(c.first, c.second, c.column) for c in TABLES["table3"].claims()}
    assert ("L4N1", "L2N2", "csim") in grid
    assert ("L8N1", "L4N2", "csim") in grid
    assert ("L1N1", "L2N1", "adj_lpips") in grid
    assert not any({"L4N4", "L1N1"} == {a, b} for a, b, _ in grid)
