"""The chain in the lantern world, for any window and any anchors: what the ablations train."""

import msgspec
from af_core.anchors.config import DualAnchorConfig
from af_core.anchors.dual_anchor import DualAnchorCache
from af_core.geometry import Geometry
from af_core.models.causal_wan import CausalWan
from af_core.plugins import BuildContext
from af_core.schedules.config import RectifiedFlowConfig
from af_core.schedules.rectified_flow import RectifiedFlow
from af_core.windows.config import LocalFutureConfig
from af_core.windows.local_future import LocalFutureScheduler

from af_train.levels import shifted
from af_train.recipes.lamp import LAMP_WAN, lamp_recipe, make_network
from af_train.recipes.settings import with_settings
from af_train.recipes.stages import DistillRecipe
from af_train.worlds.lantern import CHANNELS, SIDE

BLOCK = 1
SHIFT = 3.0
LANTERN_WAN = msgspec.structs.replace(LAMP_WAN, in_channels=CHANNELS)
"""No reference beside the frames: identity reaches them through anchors alone."""
_CHANGED = (
    "teacher.trainer.steps=1200",
    "backfill.num_clips=512",
    "backfill.num_steps=32",
    "backfill.batch_size=128",
    "backfill.clips_per_shard=256",
    "ode.trainer.steps=600",
    "ode.trainer.save_every=300",
    "dmd.trainer.steps=150",
    "dmd.trainer.save_every=50",
    "dmd.trainer.log_every=10",
    "dmd.options.critic_updates=3",
)


def lantern_recipe(seed: int = 0) -> DistillRecipe:
    """Return what was found to work at this size: the lamp's, with other counts."""
    return with_settings(lamp_recipe(seed), _CHANGED)


def make_lantern_network(seed: int = 0) -> CausalWan:
    """Return a fresh network of 27 thousand weights."""
    return make_network(seed, LANTERN_WAN)


def lantern_context(
    num_slots: int = 4, num_passes: int = 1, anchors: DualAnchorConfig | None = None
) -> BuildContext:
    """Return the stages of a student with the mechanism B_{L,N} and these anchors."""
    rungs = num_slots * num_passes
    levels = tuple(shifted(1 - i / rungs, SHIFT) for i in range(rungs))
    schedule = RectifiedFlow(RectifiedFlowConfig(shift=SHIFT, levels=levels))
    window = LocalFutureConfig(num_slots=num_slots, num_passes=num_passes)
    return BuildContext(
        Geometry(SIDE * 8, SIDE * 8, BLOCK),
        stages={
            "noise_schedule": schedule,
            "window_scheduler": LocalFutureScheduler(schedule, window),
            "anchor_cache": DualAnchorCache(anchors or DualAnchorConfig(temporal_budget=2)),
        },
    )
