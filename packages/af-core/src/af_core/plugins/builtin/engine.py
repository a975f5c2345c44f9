"""Options of the stages that make up the streaming algorithm, as they stand in a pipeline file."""

from typing import Any

from af_core.anchors.config import DualAnchorConfig
from af_core.errors import ConfigError
from af_core.geometry import Geometry
from af_core.plugins.contract import BuildContext
from af_core.ports import Declaration
from af_core.schedules.config import RectifiedFlowConfig
from af_core.windows.config import CausalConfig, LocalFutureConfig, require_lookahead

NUM_TIMESTEPS = 1000
"""Entries of the published training table."""


class RectifiedFlowOptions(RectifiedFlowConfig, frozen=True, forbid_unknown_fields=True):
    """Rectified flow: straight paths between data and noise."""

    def preview_ladder(self, num_rungs: int) -> list[float]:
        """Return the noise levels, noisiest first, in plain numbers; torch's are the judge."""
        if self.levels is not None:
            if len(self.levels) != num_rungs:
                raise ConfigError(
                    f"The ladder has {len(self.levels)} levels, but the window needs {num_rungs}: "
                    "one for each pass of each block in it. Give as many levels, or change "
                    "num_slots or num_passes."
                )
            return list(self.levels)
        even = [NUM_TIMESTEPS * (num_rungs - i) // num_rungs for i in range(num_rungs)]
        steps = list(self.steps) if len(self.steps) == num_rungs else even
        if not self.warp:
            return [step / NUM_TIMESTEPS for step in steps]
        bases = [step / NUM_TIMESTEPS for step in steps]
        return [self.shift * base / (1 + (self.shift - 1) * base) for base in bases]

    def build(self, context: BuildContext) -> Any:
        """Build the schedule."""
        from af_core.schedules.rectified_flow import RectifiedFlow

        return RectifiedFlow(self)


class LocalFutureOptions(LocalFutureConfig, frozen=True, forbid_unknown_fields=True):
    """The local future of AvatarForcing: L blocks at L noise levels, denoised jointly."""

    def __post_init__(self) -> None:
        """Refuse windows without blocks or passes."""
        _require_positive(num_slots=self.num_slots, num_passes=self.num_passes)
        require_lookahead(self)

    def declare(self, geometry: Geometry) -> Declaration:
        """Return the delay: a block must be heard, and then those it waits for."""
        future, heard = self.num_slots - 1, self.audio_lookahead_blocks
        heard = future if heard is None else heard
        ahead = heard * geometry.block_ms
        unheard = f", {heard} of these heard" if heard < future else ""
        return Declaration(
            block_ms=geometry.block_ms,
            lookahead_ms=ahead,
            num_rungs=self.num_slots * self.num_passes,
            facts={
                "window": f"{_count(self.num_slots, 'block')}, the last {future} of "
                f"them are local future{unheard} ({ahead} ms)",
                "passes": f"{_count(self.num_passes, 'pass', 'passes')} of the network per block",
            },
        )

    def build(self, context: BuildContext) -> Any:
        """Build the scheduler."""
        from af_core.windows.local_future import LocalFutureScheduler

        return LocalFutureScheduler(context.stages["noise_schedule"], self)


class CausalOptions(CausalConfig, frozen=True, forbid_unknown_fields=True):
    """One block at a time down the whole ladder, as in Self-Forcing: no look-ahead."""

    def __post_init__(self) -> None:
        """Refuse windows without passes."""
        _require_positive(num_passes=self.num_passes)

    def declare(self, geometry: Geometry) -> Declaration:
        """Return the delay: one block."""
        return Declaration(
            block_ms=geometry.block_ms,
            num_rungs=self.num_passes,
            facts={
                "window": "1 block, no future",
                "passes": f"{_count(self.num_passes, 'pass', 'passes')} of the network per block",
            },
        )

    def build(self, context: BuildContext) -> Any:
        """Build the scheduler."""
        from af_core.windows.causal import CausalScheduler

        return CausalScheduler(context.stages["noise_schedule"], self)


class DualAnchorOptions(DualAnchorConfig, frozen=True, forbid_unknown_fields=True):
    """The portrait and the newest clean frames, at positions relative to the window."""

    def __post_init__(self) -> None:
        """Refuse a negative budget, and levels that are none."""
        if self.temporal_budget < 0:
            raise ConfigError(f"temporal_budget={self.temporal_budget}: 0 latent frames or more.")
        if not 0 <= self.context_noise <= 1:
            raise ConfigError(f"context_noise={self.context_noise}: a level from 0 to 1.")

    def declare(self, geometry: Geometry) -> Declaration:
        """Return the latent frames whose keys and values are held."""
        style = (
            f"the portrait, {self.offset:+d} from the context"
            if self.style_anchor and self.reindex
            else "the portrait, at absolute index 0"
            if self.style_anchor
            else "none"
        )
        frame = f"{self.history} latent frame"
        return Declaration(
            latents_held=int(self.style_anchor) + self.temporal_budget,
            facts={
                "style anchor": style,
                "temporal anchor": f"the last {_count(self.temporal_budget, frame)}"
                if self.temporal_budget
                else "none",
            },
        )

    def build(self, context: BuildContext) -> Any:
        """Build the cache."""
        from af_core.anchors.dual_anchor import DualAnchorCache

        return DualAnchorCache(self)


def _require_positive(**values: int) -> None:
    for name, value in values.items():
        if value < 1:
            raise ConfigError(f"{name}={value} must be at least 1.")


def _count(number: int, word: str, plural: str | None = None) -> str:
    return f"{number} {word if number == 1 else plural or word + 's'}"
