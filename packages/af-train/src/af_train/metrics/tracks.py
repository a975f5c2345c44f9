"""A value for each moment of a clip: its mean (Total), its end (Last), its trend."""

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import theilslopes

LAST_SHARE = 1 / 6
"""The last ten seconds of one minute."""


def total_and_last(
    name: str, track: ArrayLike, last_share: float = LAST_SHARE, suffix: str = ""
) -> dict[str, float]:
    """Return ``name``, the mean of ``track`` ``[n]``, and ``name_last``, that of its last part.

    The last part is ``last_share`` of the track, at least one value; with a share of 1 there is
    none to tell apart. ``suffix`` ends both names. The paper reports "Total / Last over one-minute
    rollouts" without saying how long Last is; this is our reading.
    """
    values = np.asarray(track, np.float64)
    found = {name + suffix: float(values.mean())}
    if last_share < 1:
        tail = values[-max(1, round(last_share * len(values))) :]
        found[f"{name}_last{suffix}"] = float(tail.mean())
    return found


def slope_per_minute(times_s: ArrayLike, values: ArrayLike) -> float:
    """Return the median slope over all pairs of moments (Theil-Sen), per minute."""
    slope, *_ = np.asarray(theilslopes(np.asarray(values), np.asarray(times_s)))
    return 60 * float(slope)
