"""Options of the noise schedules; no torch, so that a pipeline is checked without it."""

from typing import Literal

import msgspec


class RectifiedFlowConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Options of the schedule; the defaults are the published ones."""

    shift: float = 5.0
    """sigma = shift * base / (1 + (shift - 1) * base)."""
    steps: tuple[int, ...] = (1000, 800, 400, 200)
    """Steps of the ladder, noisiest first, before warping; other lengths are spaced evenly."""
    warp: bool = True
    """Read steps as indices into the shifted table; off: as timesteps, rounded to the nearest."""
    levels: tuple[float, ...] | None = None
    """The ladder itself, noisiest first, such as (1, 0.8, 0.5, 0.25); replaces ``steps``."""
    prediction: Literal["velocity", "x0"] = "velocity"
    """What the network's output means: eps - x0, or x0 itself."""
