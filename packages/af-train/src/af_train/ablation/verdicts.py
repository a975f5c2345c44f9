"""Whether an ordering that a paper claims holds here: one rule, the same for every row.

The advantage of the row that the paper finds better is estimated on the same clips with the same
noise, and its 95 % interval by drawing seeds and clips anew, each with replacement and crossed
(Owen, 2007). The rule:

1. the whole interval lies above 0: reproduced;
2. it lies below 0: not reproduced, the order is the other way round;
3. it holds 0 and lies within +-5 % of the larger of both values: not reproduced, no difference;
4. otherwise, or with fewer than six clips, which chance alone would often have agree: undecided.

With few seeds the interval is wide or narrow by luck; how many there were stands beside it.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Literal

import attrs
import numpy as np
from numpy.typing import NDArray

from af_train.metrics.frechet import frechet_of_gaussians

Array = NDArray[np.float64]
Verdict = Literal["reproduced", "not reproduced", "undecided", "not measured"]
FEWEST_CLIPS = 6
"""Five clips agree in sign by chance once in sixteen times."""
NEGLIGIBLE = 0.05
"""Share of the larger value below which a difference is none."""
_TAILS = (2.5, 97.5)


@attrs.frozen(eq=False)
class Means:
    """A number for every clip: ``[seed, clip]``."""

    values: Array
    num_resamples: int = 1000

    def under(self, weights: Array) -> float:
        """Return the mean under weights ``[seed, clip]``."""
        return float((weights * self.values).sum() / weights.sum())


@attrs.frozen(eq=False)
class Frechet:
    """Features of every clip as moments, against those of the true clips."""

    made: "Moments"
    true: "Moments"
    num_resamples: int = 200

    def under(self, weights: Array) -> float:
        """Return the Frechet distance if clips counted so often."""
        return frechet_of_gaussians(*self.made.under(weights), *self.true.under(weights))

    @property
    def values(self) -> Array:
        """Return weights' shape: the moments are those of ``[seed, clip]``."""
        return self.made.counts


@attrs.frozen(eq=False)
class Moments:
    """Of features ``[seed, clip, n, d]``."""

    counts: Array
    """``[seed, clip]``."""
    sums: Array
    """``[seed, clip, d]``."""
    products: Array
    """``[seed, clip, d, d]``."""

    @classmethod
    def of(cls, features: Array) -> "Moments":
        """Sum up features."""
        counts = np.full(features.shape[:2], features.shape[2], np.float64)
        products = np.einsum("scni,scnj->scij", features, features)
        return cls(counts, features.sum(2), products)

    def under(self, weights: Array) -> tuple[Array, Array]:
        """Return mean and unbiased covariance."""
        n = float((weights * self.counts).sum())
        mean = np.einsum("sc,sci->i", weights, self.sums) / n
        second = np.einsum("sc,scij->ij", weights, self.products) / n
        return mean, (second - np.outer(mean, mean)) * n / (n - 1)


Statistic = Means | Frechet


@attrs.frozen
class Estimate:
    """A number with its 95 % interval."""

    value: float
    low: float
    high: float


@attrs.frozen
class Decision:
    """What was found of one claimed ordering."""

    verdict: Verdict
    advantage: Estimate | None = None
    """Of the row that the claim puts first; positive if the claim holds."""
    why: str = ""
    """What the verdict rests on, where it could be more than one thing."""


NOT_MEASURED = Decision("not measured")


def resamples(num_seeds: int, num_clips: int, count: int, seed: int = 0) -> Array:
    """Return how often each seed's clip counts, ``[count, seed, clip]``: drawn crosswise."""
    rng = np.random.default_rng(seed)
    seeds = rng.multinomial(num_seeds, np.full(num_seeds, 1 / num_seeds), count)
    clips = rng.multinomial(num_clips, np.full(num_clips, 1 / num_clips), count)
    return (seeds[:, :, None] * clips[:, None, :]).astype(np.float64)


@lru_cache(maxsize=1024)
def estimate(statistic: Statistic) -> Estimate:
    """Return a row's number with its interval; computed once, a row stands in several tables."""
    return _spread(statistic.under, statistic)


def decide(first: Statistic, second: Statistic, *, higher_is_better: bool) -> Decision:
    """Judge the claim that ``first`` is better than ``second`` by the rule above."""
    sign = 1 if higher_is_better else -1

    def advantage(weights: Array) -> float:
        return sign * (first.under(weights) - second.under(weights))

    found = _spread(advantage, first)
    if first.values.shape[1] < FEWEST_CLIPS:
        few = f"{first.values.shape[1]} clips, {FEWEST_CLIPS} are needed"
        return Decision("undecided", found, few)
    whole = np.ones(first.values.shape)
    larger = max(abs(first.under(whole)), abs(second.under(whole)))
    verdict = judge(found, NEGLIGIBLE * larger)
    return Decision(verdict, found, _why(verdict, found))


def judge(advantage: Estimate, negligible: float) -> Verdict:
    """Apply the rule to an interval."""
    if advantage.low > 0:
        return "reproduced"
    if advantage.high < 0 or max(-advantage.low, advantage.high) < negligible:
        return "not reproduced"
    return "undecided"


def _why(verdict: Verdict, advantage: Estimate) -> str:
    if verdict == "not reproduced":
        return "reversed" if advantage.high < 0 else "no difference"
    return "the interval holds 0" if verdict == "undecided" else ""


def tally(decisions: Sequence[Decision]) -> dict[Verdict, int]:
    """Count verdicts."""
    found: dict[Verdict, int] = {"reproduced": 0, "not reproduced": 0, "undecided": 0}
    for decision in decisions:
        if decision.verdict != "not measured":
            found[decision.verdict] += 1
    return found


def _spread(of: Callable[[Array], float], like: Statistic) -> Estimate:
    shape = like.values.shape
    drawn = [of(weights) for weights in resamples(shape[0], shape[1], like.num_resamples)]
    low, high = np.percentile(drawn, _TAILS)
    return Estimate(of(np.ones(shape)), float(low), float(high))
