"""The chain in the lantern world, for any window and any anchors: what the ablations train."""

import torch
from af_core.anchors.config import DualAnchorConfig
from af_core.anchors.dual_anchor import DualAnchorCache
from af_core.geometry import Geometry
from af_core.models.causal_wan import CausalWan
from af_core.models.wan_config import CausalWanConfig
from af_core.plugins import BuildContext
from af_core.schedules.config import RectifiedFlowConfig
from af_core.schedules.rectified_flow import RectifiedFlow
from af_core.windows.config import LocalFutureConfig
from af_core.windows.local_future import LocalFutureScheduler

from af_train.backfill import BackfillConfig
from af_train.levels import shifted
from af_train.recipes.distill import DistillRecipe, StageRecipe
from af_train.trainer import RoleConfig, TrainerConfig
from af_train.worlds.lantern import AUDIO_DIM, CHANNELS, SIDE

BLOCK = 1
SHIFT = 3.0
LANTERN_WAN = CausalWanConfig(
    dim=32,
    ffn_dim=64,
    num_layers=2,
    num_heads=2,
    freq_dim=32,
    in_channels=CHANNELS,  # no reference: identity reaches the frames through anchors alone
    out_channels=CHANNELS,
    text_dim=None,
    audio_dim=AUDIO_DIM,
    audio_hidden=8,
    audio_layers=(0, 1),
    rope_theta=100.0,
)


def lantern_recipe(seed: int = 0) -> DistillRecipe:
    """Return what was found to work at this size."""
    return DistillRecipe(
        teacher=StageRecipe(
            "flow-matching",
            TrainerConfig(
                1200,
                {"teacher": _fast(4e-3)},
                batch_size=32,
                save_every=400,
                log_every=50,
                seed=seed,
            ),
            {"shift": SHIFT},
        ),
        backfill=BackfillConfig(
            512, 32, SHIFT, 1.0, batch_size=128, clips_per_shard=256, seed=seed
        ),
        ode=StageRecipe(
            "ode-regression",
            TrainerConfig(
                600,
                {"student": _fast(2e-3)},
                batch_size=32,
                save_every=300,
                log_every=50,
                seed=seed,
            ),
        ),
        dmd=StageRecipe(
            "dmd",
            TrainerConfig(
                150,
                {
                    "student": RoleConfig(learning_rate=1e-3, average=0.95, average_from=10),
                    "critic": RoleConfig(learning_rate=2e-3),
                },
                batch_size=16,
                save_every=50,
                log_every=10,
                seed=seed,
            ),
            {"shift": SHIFT, "guidance_weight": 1.0, "critic_updates": 3},
        ),
    )


def _fast(learning_rate: float) -> RoleConfig:
    return RoleConfig(
        learning_rate,
        betas=(0.9, 0.99),
        gradient_clip=1.0,
        warmup_updates=20,
        final_learning_rate_ratio=0.05,
        average=0.98,
        average_from=50,
    )


def make_lantern_network(seed: int = 0) -> CausalWan:
    """Return a fresh network of fifty thousand weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = CausalWan(LANTERN_WAN)
    network.attention.kernel = "sdpa"
    return network


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
