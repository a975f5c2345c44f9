"""Live Avatar's two stages (arXiv 2512.04677): diffusion forcing, then self-forcing DMD.

The numbers are the paper's, whose training code is not public: 25,000 and 2,500 steps, rates 1e-5
and 2e-6, adapters of rank 128, blocks of three latent frames, a memory of four blocks and the
portrait. The network is the pipeline's; the paper's has 14 B parameters. History Corrupt
(Algorithm 1) is ``anchor_cache.history=noisy``: no clean pass is run. Algorithm 2, block by block,
is how every roll-out here comes to its gradient, with one evaluation of the scores instead of one
a block. What the paper does not tell is ours, and is marked so.
"""

from pathlib import Path

import attrs
from af_core.errors import ConfigError

from af_train.adapters import AdapterConfig
from af_train.backfill import BackfillConfig
from af_train.objectives.contract import STUDENT
from af_train.parallel import World
from af_train.recipes.distill import Distillation
from af_train.recipes.published import PublishedRecipe, published_chain
from af_train.recipes.stages import StageRecipe
from af_train.trainer import RoleConfig, TrainerConfig

STREAM = (
    "geometry.block_latents=3",
    "noise_schedule.levels=[1.0,0.857692,0.602151,0.008929]",  # four steps, shift 3, as released
    "window_scheduler.use=causal",
    "window_scheduler.num_passes=4",
    "audio_encoder.revised_frames=0",
    "anchor_cache.temporal_budget=12",
    "anchor_cache.history=noisy",
)
"""The pipeline of a stream: block by block in four steps, its memory as noisy as the last one."""


class LiveAvatarRecipe(PublishedRecipe, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A teacher that is given or tuned, diffusion forcing, distribution matching."""

    forcing: StageRecipe


def liveavatar_recipe() -> LiveAvatarRecipe:
    """Return the recipe ``liveavatar``."""
    adapter = AdapterConfig(rank=128, alpha=64.0)
    return LiveAvatarRecipe(
        settings=STREAM,
        num_frames=21,  # seven blocks, 84 video frames
        effective_batch=128,  # one for each of 128 GPUs
        teacher=StageRecipe(
            "flow-matching",
            _half(10_000, {"teacher": _regression(adapter)}),  # ours: theirs is Wan-S2V as it is
            {"shift": 5.0},
            begin="shipped",
        ),
        forcing=StageRecipe(
            "diffusion-forcing",
            _half(25_000, {"student": _regression(adapter)}),
            {"shift": 5.0, "audio_dropout": 0.15},
        ),
        dmd=StageRecipe(
            "self-forcing",
            _half(
                2500,
                {
                    "student": RoleConfig(1e-5, average=0.99, average_from=40, adapter=adapter),
                    "critic": RoleConfig(2e-6, adapter=adapter),
                },
            ),
            {"shift": 5.0, "guidance_weight": 4.0, "critic_updates": 5},  # ours: Self-Forcing's
        ),
        backfill=BackfillConfig(num_clips=1, num_steps=50, shift=5.0, guidance_weight=4.5),
    )


@attrs.frozen(eq=False)
class LiveAvatar:
    """The chain: teacher, forcing, dmd."""

    chain: Distillation
    recipe: LiveAvatarRecipe

    def teacher(self) -> Path:
        """Tune the bidirectional teacher."""
        return self.chain.teacher()

    def forcing(self) -> Path:
        """Teach a student to denoise block by block over a noisy past, begun as the teacher."""
        begin = {STUDENT: "teacher"}
        return self.chain.train("forcing", self.recipe.forcing, begin, self.chain.source)

    def dmd(self) -> Path:
        """Match distributions on block-by-block roll-outs, after diffusion forcing."""
        return self.chain.dmd(after="forcing")

    def run(self) -> Path:
        """Run all stages; returns the file of the student."""
        self.chain.check()
        self.teacher()
        self.forcing()
        return self.dmd()


def liveavatar_chain(directory: Path, recipe: LiveAvatarRecipe, world: World) -> LiveAvatar:
    """Return the chain of the recipe in a directory."""
    chain = published_chain(directory, recipe, world)
    if not isinstance(chain.recipe, LiveAvatarRecipe):
        raise ConfigError("This is no recipe of Live Avatar.")
    return LiveAvatar(chain, chain.recipe)


def _half(steps: int, roles: dict[str, RoleConfig]) -> TrainerConfig:
    return TrainerConfig(steps, roles, precision="bfloat16", recompute=True)


def _regression(adapter: AdapterConfig) -> RoleConfig:
    return RoleConfig(1e-5, betas=(0.9, 0.999), adapter=adapter)
