"""From a training directory to one file of weights that streams, with its origin in the header."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import msgspec
import torch
from af_core.errors import AvatarForcingError, ConfigError
from af_core.weights.digest import sha256_of
from af_core.weights.files import read_metadata, read_tensors, write_tensors
from torch import Tensor

from af_train import checkpoints
from af_train.adapters import AdapterConfig, merged
from af_train.backfill import weights_hash
from af_train.evaluation import ABOUT
from af_train.journal import read_run
from af_train.objectives.contract import CRITIC, STUDENT, TEACHER
from af_train.recipes.distill import read_note

_STUDENTS = ("dmd", "ode")
"""Stages that leave a student, the better one first."""


class NothingToExportError(AvatarForcingError):
    """There are no weights where they were looked for."""


@attrs.frozen(eq=False)
class Trained:
    """Weights as training left them."""

    tensors: Mapping[str, Tensor]
    origin: Path
    """File or checkpoint."""
    stage: str
    role: str
    step: int | None
    """Steps done; None where nobody wrote it down."""
    directory: Path | None
    """The run's directory, which has ``recipe.json``."""
    averaged: bool
    """Whether averages were asked for; a role that kept none has its last weights."""
    blend: str | None = None
    """What was blended in, and how much of it."""

    def recipe(self) -> dict[str, Any]:
        """Return ``recipe`` and ``settings`` as the run wrote them down, or nothing."""
        return read_note(self.directory) if self.directory else {}


class Exported(msgspec.Struct, frozen=True):
    """What was written; the header of the file says the same."""

    path: str
    stage: str
    role: str
    step: int | None
    averaged: bool
    dtype: str
    num_parameters: int
    size_bytes: int
    sha256: str
    source: str
    blend: str | None
    """What was blended in."""
    card: str
    """The model card beside the file."""


def find_trained(
    source: Path, role: str | None = None, *, averaged: bool = True, base: Path | None = None
) -> Trained:
    """Return the weights of a run, of one of its stages, of a checkpoint or of a stage's file.

    Of a run, those of the last student that there is: a finished stage's file, or else its newest
    checkpoint. ``base`` has the weights that a checkpoint of an adapter stands on; they are merged.
    """
    found = _found(source, role, averaged)
    adapter = {name for name in found.tensors if ".lora_" in name}
    if not adapter and base is None:
        return found
    return attrs.evolve(found, tensors=_on_base(found, adapter, base))


def _on_base(found: Trained, adapter: set[str], base: Path | None) -> dict[str, Tensor]:
    """Return the weights of an adapter merged into what it stands on."""
    run = read_run((found.directory or Path()) / found.stage)
    options = run.settings["roles"][found.role].get("adapter") if run else None
    if not adapter or options is None:
        holds = "an adapter whose run.json is gone" if adapter else "no adapter"
        raise NothingToExportError(
            f"{found.origin} holds {holds}; --base goes with checkpoints of adapters."
        )
    if base is None:
        raise NothingToExportError(
            f"{found.origin} holds an adapter alone: name the weights it stands on with --base, "
            f"those that the stage {found.stage} began with, or wait for {found.stage}.safetensors."
        )
    return merged({**read_tensors(base), **found.tensors}, msgspec.convert(options, AdapterConfig))


def blended(trained: Trained, other: Path, share: float) -> Trained:
    """Return ``(1 - share)`` of these weights and ``share`` of those in ``other``, one by one.

    Of networks that went on from the same weights, the mean is often better than either
    (decision 0069). Raises ``ConfigError`` if they do not have the same tensors.
    """
    if not 0 < share < 1:
        raise ConfigError(f"share={share:g} must lie between 0 and 1.")
    if not other.is_file():
        raise NothingToExportError(f"{other}: there is no such file to blend in.")
    theirs, ours = read_tensors(other), trained.tensors
    odd = sorted(ours.keys() ^ theirs.keys())
    odd += [name for name in ours if name in theirs and ours[name].shape != theirs[name].shape]
    if odd:
        raise ConfigError(
            f"{other} cannot be blended in: {len(odd)} tensors are not in both or differ in shape "
            f"({', '.join(odd[:3])}). Blend weights of one network."
        )
    tensors = {name: ours[name].float().lerp(theirs[name].float(), share) for name in ours}
    return attrs.evolve(trained, tensors=tensors, blend=f"{share:g} of {other.name}")


def _found(source: Path, role: str | None, averaged: bool) -> Trained:
    if source.is_file():
        return _file(source, role)
    if (source / "about.json").is_file():
        return _checkpoint(source, source.parent.parent, role, averaged)
    if (newest := checkpoints.newest(source)) is not None:
        return _checkpoint(newest, source, role, averaged)
    for stage in _STUDENTS:
        if (source / f"{stage}.safetensors").is_file():
            return _file(source / f"{stage}.safetensors", role)
        if (newest := checkpoints.newest(source / stage)) is not None:
            return _checkpoint(newest, source / stage, role, averaged)
    found = sorted(path.name for path in source.glob("*")) if source.is_dir() else []
    raise NothingToExportError(
        f"{source} holds no student. A run's directory (dmd.safetensors, ode.safetensors or their "
        "folders), a stage's folder with checkpoints, a checkpoint or a .safetensors file is "
        f"needed; there is: {', '.join(found[:12]) or 'nothing'}."
    )


def export_trained(
    trained: Trained,
    path: Path,
    *,
    dtype: torch.dtype = torch.float32,
    metrics: Path | None = None,
) -> Exported:
    """Write weights with a header that says where they come from, and a model card beside them.

    Raises ``ConfigError`` if a weight is no number, or too large for ``dtype``.
    """
    if path.suffix != ".safetensors":
        raise ConfigError(f"{path}: weights are written as .safetensors; give such a name.")
    cast = {name: _cast(name, value, dtype) for name, value in trained.tensors.items()}
    scores = _scores(metrics, weights_hash(cast))
    recipe = trained.recipe()
    header = {
        "format": "af-denoiser/1",
        "stage": trained.stage,
        "role": trained.role,
        "step": str(trained.step if trained.step is not None else "unknown"),
        "averaged": str(trained.averaged).lower(),
        "blend": trained.blend or "none",
        "source": str(trained.origin.name),
        "recipe": str(recipe.get("recipe", "unknown")),
        "settings": msgspec.json.encode(recipe.get("settings", {})).decode(),
        "metrics": msgspec.json.encode(scores).decode(),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_tensors(path, cast, header)
    made = Exported(
        path=str(path),
        stage=trained.stage,
        role=trained.role,
        step=trained.step,
        averaged=trained.averaged,
        dtype=str(dtype).removeprefix("torch."),
        num_parameters=sum(value.numel() for value in cast.values()),
        size_bytes=path.stat().st_size,
        sha256=sha256_of(path),
        source=str(trained.origin),
        blend=trained.blend,
        card=str(path.with_suffix(".md")),
    )
    path.with_suffix(".md").write_text(_card(made, recipe, scores))
    return made


def _file(path: Path, role: str | None) -> Trained:
    tensors, about, stage = read_tensors(path), read_metadata(path), path.stem
    stage = about.get("stage", stage)
    known = TEACHER if stage == "teacher" else STUDENT
    if role not in (None, known):
        raise NothingToExportError(
            f"{path} holds the {known} alone; the {role} is in the checkpoints of {path.stem}/."
        )
    run, last = read_run(path.parent / path.stem), checkpoints.newest(path.parent / path.stem)
    step = int(run.settings["steps"]) if run else None
    if last is not None:
        step = checkpoints.read_about(last).step
    return Trained(tensors, path, stage, known, step, path.parent, averaged=True)


def _checkpoint(path: Path, stage: Path, role: str | None, averaged: bool) -> Trained:
    about = checkpoints.read_about(path)
    there = [name for name in (STUDENT, TEACHER, CRITIC) if name in about.updates]
    chosen = role or (there or [*about.updates])[0]
    if chosen not in about.updates:
        raise NothingToExportError(
            f"{path} trained {', '.join(about.updates)}; there is no {chosen}."
        )
    tensors = checkpoints.read_weights(path, chosen, averaged=averaged)
    return Trained(tensors, path, stage.name, chosen, about.step, stage.parent, averaged)


def _scores(path: Path | None, weights: str) -> dict[str, Any]:
    """Read scores; those that say of which weights they are must be of these."""
    if path is None:
        return {}
    try:
        found = msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except (OSError, msgspec.MsgspecError) as error:
        raise ConfigError(
            f"{path} holds no scores ({error}). `af-train evaluate --json` and `af-train measure "
            "--json` write them."
        ) from error
    if found.get("denoiser") not in (None, weights):
        raise ConfigError(
            f"{path} holds scores of other weights than are written here. Export without "
            "--metrics, measure that file (`af-train evaluate PRESET FILE --json`), and export "
            "again in the same precision."
        )
    return found


def _cast(name: str, value: Tensor, dtype: torch.dtype) -> Tensor:
    if not value.is_floating_point():
        return value
    if not bool(value.isfinite().all()):
        raise ConfigError(f"{name} holds values that are no numbers; take an earlier checkpoint.")
    cast = value.to(dtype)
    if not bool(cast.isfinite().all()):
        largest = float(value.abs().max())
        raise ConfigError(f"{name} reaches {largest:.3g}, too large for {dtype}; leave --half out.")
    return cast


def _card(made: Exported, recipe: Mapping[str, Any], scores: Mapping[str, Any]) -> str:
    settings = recipe.get("settings", {})
    preset = settings.get("preset", "PRESET")
    rows = {
        "file": f"`{Path(made.path).name}`, {made.size_bytes:,} bytes",
        "sha256": f"`{made.sha256}`",
        "weights": f"{made.num_parameters:,}, {made.dtype}",
        "distilled from": f"preset `{preset}`" if settings.get("preset") else "not written down",
        "stage": f"{made.stage}, {made.role}, step {made.step if made.step is not None else '?'}",
        "average of weights": "yes" if made.averaged else "no, the last ones",
        **({"blended with": made.blend} if made.blend else {}),
        "data": f"`{settings['data']}`" if settings.get("data") else "drawn by the recipe",
    }
    table = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    numbers = "\n".join(
        f"| {name} | {f'{value:.4g}' if isinstance(value, float) else value} |"
        for name, value in scores.items()
        if isinstance(value, int | float | str) and name not in ABOUT
    )
    measured = (
        f"| measure | value |\n|---|---|\n{numbers}"
        if numbers
        else f"Not measured. `af-train evaluate {preset} {Path(made.path).name} --json > "
        "scores.json`, then export again with `--metrics scores.json`."
    )
    return (
        f"# {Path(made.path).stem}\n\n"
        f"A denoiser for a streaming avatar.\n\n| | |\n|---|---|\n{table}\n\n"
        f"## Use\n\n```\naf-runtime generate PORTRAIT SPEECH -o clip.mp4 --preset {preset} "
        f"--set denoiser.weights={Path(made.path).name}\n```\n\n"
        f"## Scores\n\n{measured}\n\n"
        "## To be filled in\n\n"
        "- Who is in the training data, and what they agreed to.\n"
        "- What it is for, and what it must not be used for.\n"
        "- Where it fails: faces, voices, languages, lengths.\n"
        "- Licence.\n"
    )
