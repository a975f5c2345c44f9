"""Recipes of chains: what each stage minimises, how, and from where; slips are told early."""

from pathlib import Path
from typing import Any

import msgspec
from af_core.errors import AvatarForcingError, ConfigError
from af_core.plugins import load_catalog

from af_train.backfill import BackfillConfig
from af_train.checkpoints import newest
from af_train.objectives.contract import CRITIC, STUDENT, TEACHER
from af_train.strips import SampleConfig
from af_train.trainer import TrainerConfig

STAGE = "stage.json"
"""File in a stage's folder that holds its ``StageNote``."""
NETWORKS = {"teacher": (TEACHER,), "dmd": (STUDENT, CRITIC, TEACHER)}
"""Networks of a stage by role; every other stage has a student alone."""


class StageRecipe(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One stage: what is minimised, and how."""

    objective: str
    """Registered name of an objective."""
    trainer: TrainerConfig
    options: dict[str, Any] = {}
    """Options of the objective."""
    begin: str | None = None
    """Weights the first role begins with: a file, or ``shipped``, those of the preset. None begins
    as the chain has it. A run that has a checkpoint goes on from that."""


class StageNote(msgspec.Struct, frozen=True):
    """What a stage learns, as ``STAGE/stage.json`` keeps it: weights of another are no good."""

    objective: str
    options: dict[str, Any]
    begin: str | None


def read_stage_note(folder: Path) -> StageNote | None:
    """Return what a stage learns, as it was noted in its folder; None if nothing is."""
    try:
        return msgspec.json.decode((folder / STAGE).read_bytes(), type=StageNote)
    except (OSError, msgspec.MsgspecError):
        return None


def read_as(note: StageNote, recipe: StageRecipe) -> StageNote:
    """Return an older note with defaults that its objective has got since, if it still can be."""
    older = msgspec.structs.replace(recipe, objective=note.objective, options=note.options)
    try:
        return msgspec.structs.replace(note, options=note_of(older).options)
    except AvatarForcingError:
        return note


class ChainRecipe(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What every chain has: a teacher at its beginning, distribution matching at its end."""

    teacher: StageRecipe
    backfill: BackfillConfig
    """How clips of the teacher are sampled, for trajectories and strips."""
    dmd: StageRecipe
    samples: SampleConfig = SampleConfig()
    """Strips of sample frames while stages train; off unless ``samples.every`` is set."""


class DistillRecipe(ChainRecipe, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Two-stage distillation: ODE regression comes before distribution matching."""

    ode: StageRecipe


def stages_of(recipe: ChainRecipe) -> dict[str, StageRecipe]:
    """Return the stages of a recipe that are trained, in order."""
    parts = {name: getattr(recipe, name) for name in recipe.__struct_fields__}
    order = ("teacher", "ode", "forcing", "dmd")
    found = {name: part for name, part in parts.items() if isinstance(part, StageRecipe)}
    return {name: found[name] for name in sorted(found, key=order.index)}


def require_stage(directory: Path, stage: str, recipe: StageRecipe) -> None:
    """Raise ``ConfigError`` for bad options, or a file to begin with that is not there.

    ``UnknownNameError`` for an objective that nothing offers.
    """
    require_options(stage, recipe)
    if missing := missing_begin(directory, stage, recipe):
        raise ConfigError(missing)


def require_options(stage: str, recipe: StageRecipe) -> None:
    """Raise ``ConfigError`` for options that an objective does not have, and name the stage."""
    try:
        options_of(recipe)
    except ConfigError as error:
        raise ConfigError(f"{stage}: {error}") from error


def missing_begin(directory: Path, stage: str, recipe: StageRecipe) -> str | None:
    """Return what to say of a file that a stage should begin with and that is not there.

    A stage that has begun needs it no more.
    """
    if recipe.begin in (None, "shipped") or Path(recipe.begin).is_file():
        return None
    if has_begun(directory, stage):
        return None
    return f"{stage}.begin={recipe.begin}: there is no such file."


def has_begun(directory: Path, stage: str) -> bool:
    """Tell whether a stage has left weights or a checkpoint in a run's directory."""
    left = directory / f"{stage}.safetensors"
    return left.exists() or newest(directory / stage) is not None


def note_of(recipe: StageRecipe) -> StageNote:
    """Return what a stage learns: options as its objective reads them, defaults and all."""
    begin = recipe.begin
    if begin not in (None, "shipped"):
        begin = str(Path(begin).resolve())
    return StageNote(recipe.objective, msgspec.to_builtins(options_of(recipe)), begin)


def options_of(stage: StageRecipe) -> Any:
    """Return the options of a stage's objective as its plugin declares them.

    Raises ``UnknownNameError`` for an objective that nothing offers, ``ConfigError`` for options.
    """
    config: Any = load_catalog().get("objective", stage.objective).config
    try:
        return msgspec.convert(stage.options, config)
    except msgspec.ValidationError as error:
        known = ", ".join(config.__struct_fields__) or "none"
        raise ConfigError(
            f"Options of {stage.objective}: {error}. There are: {known}. The recipe's own options "
            "stay when only the objective is changed: give all at once, STAGE.options='{...}'."
        ) from error
