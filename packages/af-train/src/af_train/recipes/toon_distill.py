"""The chain for the embedded avatar, or for any pipeline that speaks the toon world's latents.

The pipeline says what is distilled: its ladder, window, anchors and network. Teacher, critic and
student have the network's shape; its speech encoder and autoencoder are used as they are.
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal

from af_core.assembly import build_stages
from af_core.errors import ConfigError
from af_core.graph import open_pipeline, parse_overrides
from af_core.models.causal_wan import CausalWan
from af_core.models.tiny_vae import TinyVAE
from af_core.models.wan_config import CausalWanConfig
from af_core.plugins import BuildContext
from af_core.plugins.builtin.loading import seeded, shape_of
from msgspec.structs import replace
from torch import Tensor

from af_train.backfill import BackfillConfig
from af_train.data.encoders import open_clips
from af_train.data.toon_latents import LatentPool, make_shards
from af_train.data.toon_source import ToonSource
from af_train.metrics.readers import load_readers
from af_train.metrics.toon_teacher import TeacherGate
from af_train.parallel import World
from af_train.recipes.distill import Distillation, read_note
from af_train.recipes.stages import DistillRecipe, StageRecipe
from af_train.recipes.toon_student import calm_start, channel_weights, mouth_weights
from af_train.trainer import RoleConfig, TrainerConfig
from af_train.worlds.toon.driven import DRIVES


class ToonDistillRecipe(DistillRecipe, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The chain, and the clips it learns from."""

    preset: str = "toon"
    """Preset or pipeline file that is distilled."""
    settings: tuple[str, ...] = ()
    """Settings of the pipeline, such as ``anchor_cache.temporal_budget=2``."""
    data: str | None = None
    """Folder of clips that ``af-train prepare`` made; without it the toon world is drawn."""
    num_clips: int = 1664
    """Clips of 81 frames; made in the directory's ``latents`` unless they are there."""
    liveliness: float = 0.35
    """How far heads move and eyes glance in them, as in the recipe ``toon``."""
    coupled: bool = True
    """Whether the teacher learns from noise that says how people will move (``coupling``)."""
    num_frames: int = 12
    """Latent frames of a training clip."""
    gate: Literal["on", "off"] = "on"
    """Whether the teacher must speak (``metrics.toon_teacher``) before a student learns from it."""


_LOWEST = 0.02
"""The last step of a trajectory of 20 begins at .05: what it asks is learnt."""


def toon_distill_recipe() -> ToonDistillRecipe:
    """Return the settings that were run for the embedded size: 90 minutes of two CPU cores.

    The teacher begins as the shipped student, which has its shape and speaks already.
    """
    return ToonDistillRecipe(
        teacher=StageRecipe(
            "flow-matching",
            _trainer(1300, {"teacher": _regression(5e-4)}),
            {"shift": 3.0, "lowest": _LOWEST, "errors_of": "clean"},
            begin="shipped",
        ),
        backfill=BackfillConfig(
            num_clips=1024,
            num_steps=20,
            shift=1.0,
            guidance_weight=1.5,
            precision="bfloat16",
            clips_per_shard=128,
        ),
        ode=StageRecipe(
            "ode-regression",
            _trainer(800, {"student": _regression(4e-4)}),
            {"mask": "window", "below_top": "renoised"},
        ),
        dmd=_matching(),
    )


def _matching() -> StageRecipe:
    roles = {
        "student": RoleConfig(2.5e-5, average=0.97, average_from=40),
        "critic": RoleConfig(2e-4),
    }
    options = {
        "shift": 3.0,
        "lowest": _LOWEST,
        "errors_of": "clean",
        "guidance_weight": 1.5,
        "critic_draws": 5,
        "mix_self_forcing": 0.25,
    }
    return StageRecipe("dmd", _trainer(1000, roles, batch_size=8), options)


def _trainer(steps: int, roles: dict[str, RoleConfig], batch_size: int = 16) -> TrainerConfig:
    return TrainerConfig(
        steps, roles, batch_size=batch_size, precision="bfloat16", save_every=50, log_every=20
    )


def _regression(learning_rate: float) -> RoleConfig:
    return RoleConfig(
        learning_rate,
        betas=(0.9, 0.98),
        gradient_clip=1.0,
        warmup_updates=50,
        final_learning_rate_ratio=0.02,
        average=0.995,
        average_from=100,
    )


def toon_chain(directory: Path, recipe: ToonDistillRecipe, world: World) -> Distillation:
    """Return the chain of a pipeline, over prepared clips or over those of the toon world."""
    pipeline = open_pipeline(recipe.preset, parse_overrides([*recipe.settings]))
    built = build_stages(pipeline, "cpu")
    config = shape_of(pipeline.stages["denoiser"].config, CausalWanConfig)
    if recipe.data is None:
        recipe = _scored_alike(recipe)
        _require_same_noise(directory, recipe)
        source = _toon_world(directory / "latents", recipe, built, world)
    else:
        source = open_clips(Path(recipe.data), pipeline, built, recipe.num_frames)
    context = BuildContext(pipeline.geometry, stages=built)
    is_judged = recipe.gate != "off" and recipe.data is None  # its readers know drawn faces only
    gate = _gate(built, recipe) if is_judged else None
    make = partial(fresh_network, config)
    shipped = built["denoiser"].state_dict if pipeline.stages["denoiser"].config.weights else None
    emphasis = None if recipe.data else _emphasis(built["decoder"])
    return Distillation(directory, context, make, source, recipe, world, gate, shipped, emphasis)


def _scored_alike(recipe: ToonDistillRecipe) -> ToonDistillRecipe:
    """Score the student under noise that says as much as that of its teacher's training."""
    if not recipe.coupled or recipe.dmd.objective not in ("dmd", "self-forcing"):
        return recipe
    options = {"coupled": len(DRIVES)} | recipe.dmd.options
    return replace(recipe, dmd=replace(recipe.dmd, options=options))


def _require_same_noise(directory: Path, recipe: ToonDistillRecipe) -> None:
    """Refuse a directory whose teacher learned from other noise than this recipe's."""
    noted, begun = read_note(directory), ("teacher", "teacher.safetensors")
    if not noted or not any((directory / name).exists() for name in begun):
        return
    coupled = noted.get("settings", {}).get("coupled", False)
    if coupled != recipe.coupled:
        raise ConfigError(
            f"{directory} holds a teacher of coupled={str(coupled).lower()}; scores and "
            f"trajectories of another are no good. Set coupled={str(coupled).lower()}, or take "
            "another --directory."
        )


def _emphasis(decoder: Any) -> Tensor | None:
    """Return what counts in a frame of the toon world: mouths, and channels that move much."""
    scales = [part.channel_scales() for part in decoder.modules() if isinstance(part, TinyVAE)]
    return mouth_weights() * channel_weights(scales[0]) if scales else None


def _toon_world(
    folder: Path, recipe: ToonDistillRecipe, built: Mapping[str, Any], world: World
) -> ToonSource:
    """Return the clips of the toon world; those that are missing are made first."""
    if world.leads:
        for _ in make_shards(
            built["image_encoder"].vae, folder, range(recipe.num_clips), recipe.liveliness
        ):
            pass
    world.wait()
    pool = LatentPool(folder)
    return ToonSource(pool, built["audio_encoder"], recipe.num_frames, recipe.coupled)


def _gate(stages: Mapping[str, Any], recipe: ToonDistillRecipe) -> TeacherGate:
    c = recipe.backfill
    return TeacherGate(
        eyes=stages["image_encoder"],
        ears=stages["audio_encoder"],
        decoder=stages["decoder"],
        readers=load_readers(),
        num_steps=c.num_steps,
        shift=c.shift,
        guidance_weight=c.guidance_weight,
        precision=c.precision,
        num_latents=recipe.num_frames,
        liveliness=recipe.liveliness,
    )


def fresh_network(config: CausalWanConfig, seed: int = 0) -> Any:
    """Return a network of this shape that begins near the identity, the same in all processes."""
    with seeded(seed):
        network = CausalWan(config)
        calm_start(network)
    network.attention.kernel = "steady"
    return network
