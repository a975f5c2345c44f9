"""Chains at the published size: prepared recordings, batches of a given total, adapters, FSDP2.

A pipeline says what is distilled and with which autoencoder and speech encoder recordings were
prepared; teacher, critic and student have the shape of its network.
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import attrs
import msgspec
from af_core.assembly import build_stages
from af_core.errors import ConfigError
from af_core.graph import Pipeline, open_pipeline, parse_overrides
from af_core.models.causal_wan import CausalWan
from af_core.models.wan_config import CausalWanConfig
from af_core.plugins import BuildContext
from af_core.plugins.builtin.loading import seeded, shape_of
from af_core.weights.avatarforcing import build_causal_wan
from af_core.weights.checkpoints import read_checkpoint
from torch import Tensor

from af_train.data.encoders import open_clips
from af_train.parallel import World
from af_train.recipes.distill import Distillation
from af_train.recipes.stages import ChainRecipe, StageRecipe


class PublishedRecipe(ChainRecipe, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a chain at the published size is told besides its stages."""

    preset: str = "avatarforcing-1.3b"
    """Preset or pipeline file that is distilled."""
    weights: str | None = None
    """Folder of the published files, as `af-runtime download` leaves them."""
    settings: tuple[str, ...] = ()
    """Settings of the pipeline, such as ``anchor_cache.temporal_budget=8``."""
    data: str | None = None
    """Folder of clips that `af-train prepare` made with the same pipeline."""
    num_frames: int = 20
    """Latent frames of a training clip, after the portrait."""
    effective_batch: int | None = 64
    """Samples of one update over all processes; sets ``accumulate`` of every stage. None leaves
    ``accumulate`` as it is set."""

    @property
    def overrides(self) -> list[str]:
        """Return the settings of the pipeline."""
        folder = [] if self.weights is None else [f"weights_dir={self.weights}"]
        return [*folder, *self.settings]

    @property
    def preparation(self) -> str:
        """Return the command that prepares recordings for this recipe."""
        heard = [s for s in self.overrides if s.startswith(("weights_dir", "audio_", "image_"))]
        told = "".join(f" --set {setting}" for setting in heard)
        return f"af-train prepare VIDEOS -o FOLDER --preset {self.preset}{told}"


RecipeT = TypeVar("RecipeT", bound=PublishedRecipe)


def published_chain(directory: Path, recipe: PublishedRecipe, world: World) -> Distillation:
    """Return the chain of a recipe in a directory; the preset's denoiser is read when asked for."""
    if recipe.data is None:
        raise ConfigError(
            f"This recipe learns from recordings: `{recipe.preparation}` prepares them, "
            "--set data=FOLDER names them."
        )
    pipeline = open_pipeline(recipe.preset, parse_overrides(recipe.overrides))
    others = {name: stage for name, stage in pipeline.stages.items() if name != "denoiser"}
    built = build_stages(attrs.evolve(pipeline, stages=others), world.device)
    config = shape_of(pipeline.stages["denoiser"].config, CausalWanConfig)
    return Distillation(
        directory,
        BuildContext(pipeline.geometry, stages=built),
        partial(network_to_train, config),
        open_clips(Path(recipe.data), pipeline, built, recipe.num_frames),
        with_effective_batch(recipe, world),
        world,
        shipped=partial(shipped_weights, pipeline),
    )


def network_to_train(config: CausalWanConfig, seed: int = 0) -> CausalWan:
    """Return a fresh network in float32, the same in all processes."""
    with seeded(seed):
        network = CausalWan(config)
    network.attention.kernel = "steady"
    return network


def shipped_weights(pipeline: Pipeline) -> Mapping[str, Tensor]:
    """Read the preset's denoiser, its adapters merged, in float32."""
    options: Any = pipeline.stages["denoiser"].config
    if options.weights is None:
        raise ConfigError("begin=shipped: this pipeline comes without weights. Name a file.")
    read = read_checkpoint(options.weights, entry=options.entry)
    config = shape_of(options, CausalWanConfig)
    return build_causal_wan(config, read, options.weights, alpha=options.lora_alpha).state_dict()


def with_effective_batch(recipe: RecipeT, world: World) -> RecipeT:
    """Return the recipe with as many micro-batches as make up ``effective_batch``."""
    total = recipe.effective_batch
    if total is None:
        return recipe
    changed = {
        name: _accumulating(name, stage, total, world)
        for name, stage in msgspec.structs.asdict(recipe).items()
        if isinstance(stage, StageRecipe)
    }
    return msgspec.structs.replace(recipe, **changed)


def _accumulating(name: str, stage: StageRecipe, total: int, world: World) -> StageRecipe:
    at_once = world.size * stage.trainer.batch_size
    if total % at_once:
        raise ConfigError(
            f"effective_batch={total} is no multiple of {world.size} processes x "
            f"{name}.trainer.batch_size={stage.trainer.batch_size}. Change one of them."
        )
    trainer = msgspec.structs.replace(stage.trainer, accumulate=total // at_once)
    return msgspec.structs.replace(stage, trainer=trainer)
