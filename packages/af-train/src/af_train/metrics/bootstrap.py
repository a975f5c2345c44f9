"""Confidence intervals by drawing clips with replacement and summarising again."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np


def intervals(
    summarise: Callable[[Sequence[Any]], Mapping[str, float]],
    observations: Sequence[Any],
    num_resamples: int,
    seed: int = 0,
    level: float = 0.95,
) -> dict[str, tuple[float, float]]:
    """Return the percentile interval of every number; clips are the unit that is drawn.

    Frames of one clip are alike, so frames must not be drawn apart. With one clip nothing can be
    drawn: the result is empty. Intervals of distances of distributions sit too high, since a
    resample repeats clips and so spans less than the whole.
    """
    if len(observations) < 2 or num_resamples < 2:
        return {}
    rng = np.random.default_rng(seed)
    draws = rng.integers(len(observations), size=(num_resamples, len(observations)))
    rows = [summarise([observations[i] for i in draw]) for draw in draws]
    tails = (50 - 50 * level, 50 + 50 * level)
    return {
        name: tuple(np.percentile([row[name] for row in rows], tails).tolist()) for name in rows[0]
    }
