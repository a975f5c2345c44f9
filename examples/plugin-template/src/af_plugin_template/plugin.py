"""What this plugin offers: options as Structs, stages built only when a pipeline is."""

from math import cos, pi
from typing import Any

import msgspec
from af_core.errors import ConfigError
from af_core.geometry import Geometry
from af_core.plugins import BuildContext, hookimpl
from af_core.ports import Declaration

af_plugin_api = 1


class CosineOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Noise levels spaced by a quarter of a cosine."""

    power: float = 1.0
    """Above 1 the ladder spends more rungs on little noise, below 1 on much."""
    prediction: str = "x0"
    """What the network's output means: x0 or velocity."""

    def __post_init__(self) -> None:
        """Refuse what would make no ladder; a user sees this before anything is loaded."""
        if self.power <= 0:
            raise ConfigError(f"power={self.power:g} must be above 0.")
        if self.prediction not in ("x0", "velocity"):
            raise ConfigError(f"prediction={self.prediction!r} must be x0 or velocity.")

    def preview_ladder(self, num_rungs: int) -> list[float]:
        """Return the levels, noisiest first, in plain numbers, so that `explain` can show them."""
        return [
            (1 - cos(pi / 2 * (num_rungs - i) / num_rungs)) ** self.power for i in range(num_rungs)
        ]

    def build(self, context: BuildContext) -> Any:
        """Build the schedule; torch is imported here and not before."""
        from af_plugin_template.cosine import CosineSchedule

        return CosineSchedule(self.power, self.prediction)


class RelayOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Every block in the window one rung above the next, one pass a step."""

    num_slots: int = 4
    """Blocks denoised together."""

    def __post_init__(self) -> None:
        """Refuse a window without blocks."""
        if self.num_slots < 1:
            raise ConfigError(f"num_slots={self.num_slots} must be at least 1.")

    def declare(self, geometry: Geometry) -> Declaration:
        """Return the delay that the window causes; `explain` adds it up."""
        return Declaration(
            block_ms=geometry.block_ms,
            lookahead_ms=(self.num_slots - 1) * geometry.block_ms,
            num_rungs=self.num_slots,
            facts={"window": f"{self.num_slots} blocks in a relay", "passes": "1 per block"},
        )

    def build(self, context: BuildContext) -> Any:
        """Build the scheduler over the noise schedule of the same pipeline."""
        from af_plugin_template.relay import RelayScheduler

        return RelayScheduler(context.stages["noise_schedule"], self.num_slots)


@hookimpl
def af_register_noise_schedules(register: Any) -> None:
    """Offer the noise schedule."""
    register("cosine", CosineOptions)


@hookimpl
def af_register_window_schedulers(register: Any) -> None:
    """Offer the window scheduler."""
    register("relay", RelayOptions)
