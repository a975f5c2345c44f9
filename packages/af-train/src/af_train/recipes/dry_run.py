"""What a recipe would do, told without weights: stages, steps, sizes, memory, and what is missing.

Memory is an estimate of one process: weights, gradients and optimiser are counted exactly (float32,
in shards of all processes), activations by a rule of thumb that is written at ``activation_bytes``.
"""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec
import torch
from af_core.geometry import Geometry
from af_core.graph import parse_overrides
from af_core.graph.resolve import check_pipeline
from af_core.models.causal_wan import CausalWan
from af_core.models.wan_config import CausalWanConfig
from af_core.plugins import BuildContext
from af_core.plugins.builtin.loading import shape_of
from rich.filesize import decimal
from rich.table import Table

from af_train.adapters import AdapterConfig
from af_train.backfill import BackfillConfig
from af_train.parallel import World
from af_train.recipes.catalogue import Family
from af_train.recipes.lamp import LAMP_WAN, lamp_context
from af_train.recipes.published import PublishedRecipe, with_effective_batch
from af_train.recipes.settings import SettingError
from af_train.recipes.stages import StageRecipe, missing_begin, require_options, stages_of
from af_train.recipes.toon_distill import ToonDistillRecipe
from af_train.trainer import RoleConfig, TrainerConfig

_FLOAT = 4
_COLUMNS = ("stage", "objective", "steps", "samples", "networks: what moves", "memory")
_FROZEN = {"dmd": ("teacher",), "self-forcing": ("teacher",)}
"""Roles that are held beside those that are trained."""


class RolePlan(msgspec.Struct, frozen=True):
    """A network of a stage."""

    role: str
    parameters: int
    trained: int
    """Parameters that move."""
    learning_rate: float | None
    bytes: int
    """Weights, gradients, two moments and the average, of all processes together."""


class StagePlan(msgspec.Struct, frozen=True):
    """A stage as it would run."""

    stage: str
    what: str
    steps: int
    samples: int
    """Of one update, over all processes; of a backfill, clips in all."""
    split: str
    roles: tuple[RolePlan, ...]
    memory_bytes: int
    """Of one process: its share of the above, and activations."""
    leaves: str
    done: bool
    """Whether what it leaves is there."""


class DryRun(msgspec.Struct, frozen=True):
    """A whole recipe."""

    recipe: str
    processes: int
    network: str
    clip: str
    stages: tuple[StagePlan, ...]
    needs: tuple[str, ...]
    """What is missing, each with what to do about it."""


def dry_run(
    family: Family, stage: str | None, recipe: Any, directory: Path, world: World
) -> DryRun:
    """Return what ``family`` or one stage of it would do with this recipe."""
    config, geometry, needs = _pipeline(recipe)
    frames = recipe.num_frames if hasattr(recipe, "num_frames") else 6
    if isinstance(recipe, PublishedRecipe):
        recipe = with_effective_batch(recipe, world)
    chosen = family.stages if stage is None else (stage,)
    for name, part in stages_of(recipe).items():
        if name in chosen:
            require_options(name, part)
    told = []
    for name in chosen:
        part = getattr(recipe, name)
        size = config, geometry, frames, directory, world
        if isinstance(part, BackfillConfig):
            told.append(_backfill(name, part, *size))
        else:
            told.append(_stage(name, part, *size))
    return DryRun(
        family.whole if stage is None else f"{family.name}_{stage}",
        world.size,
        f"{config.num_layers} layers of {config.dim}, {_count(count(config))} parameters",
        f"portrait + {frames} latents of {geometry.tokens_per_latent} tokens",
        tuple(told),
        (*needs, *_missing(recipe, family, chosen, directory)),
    )


def count(config: CausalWanConfig, adapter: AdapterConfig | None = None) -> int:
    """Return the parameters of a network, or those that move with an adapter; nothing is held."""
    with torch.device("meta"):
        network = CausalWan(config)
    if adapter is None:
        return sum(p.numel() for p in network.parameters())
    moving = sum(p.numel() for n, p in network.named_parameters() if n.startswith(adapter.fully))
    for name, module in network.named_modules():
        if isinstance(module, torch.nn.Linear) and f".{name}".endswith(
            tuple(f".{target}" for target in adapter.targets)
        ):
            moving += adapter.rank * (module.in_features + module.out_features)
    return moving


def activation_bytes(
    config: CausalWanConfig, tokens: int, trainer: TrainerConfig, *, learns: bool = True
) -> int:
    """Estimate what a pass over so many tokens keeps for the backward pass.

    A layer keeps about 16 values per token and channel and 4 per token and hidden channel. With
    ``recompute`` only the inputs of layers stay, and one layer at a time. A pass that does not
    learn holds one layer.
    """
    width = 2 if trainer.precision == "bfloat16" else _FLOAT
    layer = tokens * (16 * config.dim + 4 * config.ffn_dim) * width
    if not learns:
        return layer
    if trainer.recompute:
        return config.num_layers * tokens * config.dim * _FLOAT + layer
    return config.num_layers * layer


def _stage(
    name: str,
    stage: StageRecipe,
    config: CausalWanConfig,
    geometry: Geometry,
    frames: int,
    directory: Path,
    world: World,
) -> StagePlan:
    t = stage.trainer
    roles = [_role(role, config, how) for role, how in t.roles.items()]
    total = count(config)
    roles += [RolePlan(r, total, 0, None, total * _FLOAT) for r in _FROZEN.get(stage.objective, ())]
    tokens = t.batch_size * (1 + frames) * geometry.tokens_per_latent
    held = sum(role.bytes for role in roles) // world.size + activation_bytes(config, tokens, t)
    path = directory / f"{name}.safetensors"
    return StagePlan(
        name,
        stage.objective,
        t.steps,
        world.size * t.accumulate * t.batch_size,
        f"{world.size} process{'es' * (world.size > 1)} x {t.accumulate} x {t.batch_size}",
        tuple(roles),
        held,
        str(path),
        path.exists(),
    )


def _backfill(
    name: str,
    job: BackfillConfig,
    config: CausalWanConfig,
    geometry: Geometry,
    frames: int,
    directory: Path,
    world: World,
) -> StagePlan:
    total = count(config)
    tokens = job.batch_size * (1 + frames) * geometry.tokens_per_latent
    held = total * _FLOAT + activation_bytes(config, tokens, TrainerConfig(1, {}), learns=False)
    shards = -(-job.num_clips // job.clips_per_shard)
    path = directory / "trajectories"
    return StagePlan(
        name,
        "trajectories",
        job.num_steps,
        job.num_clips,
        f"{shards} shards, guidance {job.guidance_weight:g}, shift {job.shift:g}",
        (RolePlan("teacher", total, 0, None, total * _FLOAT),),
        held,
        str(path),
        len(list(path.glob("*.safetensors"))) == shards,
    )


def _role(role: str, config: CausalWanConfig, how: RoleConfig) -> RolePlan:
    total = count(config)
    moving = total if how.adapter is None else count(config, how.adapter)
    if how.adapter is not None:
        low_rank = AdapterConfig(how.adapter.rank, how.adapter.alpha, how.adapter.targets, ())
        total += count(config, low_rank)
    kept = 3 + (how.average is not None)  # gradient, two moments, average
    size = _FLOAT * (total + kept * moving)
    return RolePlan(role, total, moving, how.learning_rate, size)


def _pipeline(recipe: Any) -> tuple[CausalWanConfig, Geometry, list[str]]:
    """Return what is trained, and what of its files is not there."""
    if not isinstance(recipe, PublishedRecipe | ToonDistillRecipe):
        context: BuildContext = lamp_context()
        return LAMP_WAN, context.geometry, []
    published = isinstance(recipe, PublishedRecipe)
    overrides = parse_overrides(recipe.overrides if published else [*recipe.settings])
    checked = check_pipeline(recipe.preset, overrides, with_weights=False)
    if checked.pipeline is None or checked.problems:
        raise SettingError("\n".join(map(str, checked.problems)))
    wanting = check_pipeline(recipe.preset, overrides).problems
    config = shape_of(checked.pipeline.stages["denoiser"].config, CausalWanConfig)
    said = [str(problem) for problem in wanting]
    hint = "\n    here      --set weights=DIR"
    return (
        config,
        checked.pipeline.geometry,
        [f"{text}{hint if published else ''}" for text in said],
    )


def _missing(recipe: Any, family: Family, chosen: Sequence[str], directory: Path) -> list[str]:
    parts = {n: part for n, part in stages_of(recipe).items() if n in chosen}
    begins = (missing_begin(directory, name, part) for name, part in parts.items())
    found = [told for told in begins if told is not None]
    if isinstance(recipe, PublishedRecipe) and recipe.data is None:
        found.append(f"data: --set data=FOLDER, which `{recipe.preparation}` fills")
    elif isinstance(recipe, PublishedRecipe) and not Path(recipe.data or "").is_dir():
        found.append(f"data: {recipe.data} is not there; `{recipe.preparation}` fills it")
    adapted = any(
        role.adapter is not None
        for name in chosen
        if isinstance(stage := getattr(recipe, name), StageRecipe)
        for role in stage.trainer.roles.values()
    )
    if adapted and find_spec("peft") is None:
        found.append("peft: pip install 'af-train[lora]'")
    first = family.stages.index(chosen[0])
    for earlier in family.stages[:first]:
        left = "trajectories" if earlier == "backfill" else f"{earlier}.safetensors"
        if not (directory / left).exists():
            found.append(f"{directory / left}: `af-train run {family.name}_{earlier}` leaves it")
    return found


def table(plan: DryRun) -> Table:
    """Return a plan for people."""
    title = f"{plan.recipe}: {plan.network}; {plan.clip}"
    made = Table(*_COLUMNS, title=title)
    for s in plan.stages:
        networks = "\n".join(
            f"{r.role} {_count(r.trained)} of {_count(r.parameters)}"
            + ("" if r.learning_rate is None else f", rate {r.learning_rate:g}")
            for r in s.roles
        )
        state = f"{s.stage}\n[dim]done[/dim]" if s.done else s.stage
        memory = decimal(s.memory_bytes)
        made.add_row(state, s.what, f"{s.steps:,}", f"{s.samples:,}\n{s.split}", networks, memory)
    return made


def _count(number: int) -> str:
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return str(number)
