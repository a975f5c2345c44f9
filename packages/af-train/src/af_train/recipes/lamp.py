"""The chain in the lamp world: all four stages in under a minute of one core."""

from pathlib import Path

import torch
from af_core.anchors.config import DualAnchorConfig
from af_core.anchors.dual_anchor import DualAnchorCache
from af_core.geometry import Geometry
from af_core.models.causal_wan import CausalWan
from af_core.models.wan_config import CausalWanConfig
from af_core.plugins import BuildContext
from af_core.schedules.config import RectifiedFlowConfig
from af_core.schedules.rectified_flow import RectifiedFlow
from af_core.streaming import Streamer
from af_core.weights.files import load
from af_core.windows.config import LocalFutureConfig
from af_core.windows.local_future import LocalFutureScheduler

from af_train.backfill import BackfillConfig
from af_train.draws import sample_seeds
from af_train.parallel import World
from af_train.recipes.distill import Distillation
from af_train.recipes.stages import DistillRecipe, StageRecipe
from af_train.trainer import RoleConfig, TrainerConfig
from af_train.worlds.lamp import AUDIO_DIM, CHANNELS, SIDE, LampScores, LampWorld, measure

BLOCK = 2
LAMP_WAN = CausalWanConfig(
    dim=32,
    ffn_dim=64,
    num_layers=2,
    num_heads=2,
    freq_dim=32,
    in_channels=2 * CHANNELS + 1,
    out_channels=CHANNELS,
    text_dim=None,
    audio_dim=AUDIO_DIM,
    audio_hidden=8,
    audio_layers=(0, 1),
    rope_theta=100.0,
)


def lamp_recipe(seed: int = 0) -> DistillRecipe:
    """Return what was found to work at this size."""
    return DistillRecipe(
        teacher=StageRecipe(
            "flow-matching",
            TrainerConfig(
                800,
                {"teacher": _fast(4e-3)},
                batch_size=32,
                save_every=400,
                log_every=50,
                seed=seed,
            ),
            {"shift": 3.0},
        ),
        backfill=BackfillConfig(256, 10, 3.0, 1.0, batch_size=64, clips_per_shard=128, seed=seed),
        ode=StageRecipe(
            "ode-regression",
            TrainerConfig(
                400,
                {"student": _fast(2e-3)},
                batch_size=32,
                save_every=400,
                log_every=50,
                seed=seed,
            ),
        ),
        dmd=StageRecipe(
            "dmd",
            TrainerConfig(
                300,
                {
                    "student": RoleConfig(learning_rate=1e-3, average=0.95, average_from=10),
                    "critic": RoleConfig(learning_rate=2e-3),
                },
                batch_size=16,
                save_every=100,
                log_every=20,
                seed=seed,
            ),
            {"shift": 3.0, "guidance_weight": 1.0},
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


def make_network(seed: int = 0, config: CausalWanConfig = LAMP_WAN) -> CausalWan:
    """Return a fresh network of 28 thousand weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = CausalWan(config)
    network.attention.kernel = "sdpa"
    return network


def lamp_context() -> BuildContext:
    """Return the stages of a student with a window of two blocks over the last two latents."""
    schedule = RectifiedFlow(RectifiedFlowConfig(shift=3.0))
    window = LocalFutureScheduler(schedule, LocalFutureConfig(num_slots=2, num_passes=1))
    return BuildContext(
        Geometry(SIDE * 8, SIDE * 8, BLOCK),
        stages={
            "noise_schedule": schedule,
            "window_scheduler": window,
            "anchor_cache": DualAnchorCache(DualAnchorConfig(temporal_budget=2)),
        },
    )


def lamp_chain(directory: Path, recipe: DistillRecipe, world: World | None = None) -> Distillation:
    """Return the chain in a directory."""
    here = world or World()
    return Distillation(directory, lamp_context(), make_network, LampWorld(), recipe, here)


def stream_scores(weights: Path, num_frames: int = 24, num_streams: int = 256) -> LampScores:
    """Stream clips longer than those of training with a student's weights, and measure them."""
    student, stages = make_network().eval(), lamp_context().stages
    load(student, weights)
    batch = LampWorld(num_frames).draw(sample_seeds(0, 0, "evaluation", range(num_streams)))
    engine = Streamer(stages["window_scheduler"], student, stages["anchor_cache"], BLOCK)
    state = engine.open(batch.portrait, seeds=batch.seeds)
    blocks = engine.stream(state, batch.rows.split(4 * BLOCK, dim=1))
    return measure(torch.cat([*blocks], dim=1), batch)
