"""Options of the stages that make up the streaming algorithm."""

from typing import Any

import msgspec

from af_core.geometry import VIDEO_FPS, Geometry
from af_core.plugins.contract import BuildContext
from af_core.ports import Declaration


class RectifiedFlowOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Straight paths between data and noise (Liu et al., 2023)."""

    shift: float = 5.0
    """How far the levels are pushed towards noise."""

    def build(self, context: BuildContext) -> Any:
        """Build the schedule."""


class LocalFutureOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The local-future window of AvatarForcing: L blocks, each one rung noisier than the last."""

    window_blocks: int = 4
    """L: blocks denoised together."""
    num_passes: int = 1
    """N: passes of the network per block that is emitted."""

    def declare(self, geometry: Geometry) -> Declaration:
        """Return the delay: a block must fill, then L - 1 more must be heard."""
        block_ms = 1000 * geometry.frames_per_block / VIDEO_FPS
        return Declaration(
            block_ms=block_ms,
            lookahead_ms=(self.window_blocks - 1) * block_ms,
            latents_held=self.window_blocks * geometry.block_latents,
            facts={"window_blocks": self.window_blocks, "num_passes": self.num_passes},
        )

    def build(self, context: BuildContext) -> Any:
        """Build the scheduler."""


class CausalWindowOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One block at a time."""


class DualAnchorOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The dual anchor."""

    def declare(self, geometry: Geometry) -> Declaration:
        """Return the latents held."""
        return Declaration(latents_held=5)

    def build(self, context: BuildContext) -> Any:
        """Build the cache."""
