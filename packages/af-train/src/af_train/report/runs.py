"""What a training directory holds, read from its files: nothing is loaded, nothing is changed."""

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import msgspec
from af_core.errors import AvatarForcingError

from af_train.journal import Session, read_run
from af_train.recipes.distill import SAMPLES, read_note
from af_train.recipes.stages import read_stage_note

_HISTORY = "history.jsonl"
_ORDER = ("teacher", "trajectories", "ode", "dmd")
_TITLES = {
    "loss": "Loss",
    "gradient": "Gradient norm",
    "rate": "Learning rate",
    "samples_per_s": "Samples a second",
    "eta_s": "Time left",
}
_SKIPPED = ("step", "seconds")
Point = tuple[float, float]


class NoRunError(AvatarForcingError):
    """There is no run where one was looked for."""


class Chart(msgspec.Struct, frozen=True):
    """Curves that share an axis."""

    key: str
    title: str
    series: dict[str, tuple[Point, ...]]
    """Step and value, by name: a role, or the title if there is but one."""


class Checkpoint(msgspec.Struct, frozen=True):
    """A checkpoint that is there."""

    name: str
    step: int
    megabytes: float
    written: str


class Strip(msgspec.Struct, frozen=True):
    """A picture of samples."""

    label: str
    path: str


class Stage(msgspec.Struct, frozen=True):
    """One stage of a run."""

    name: str
    objective: str | None
    state: Literal["finished", "unfinished"]
    step: int
    steps: int
    seconds: float
    """Time spent, all sessions together, as far as the history tells."""
    eta_s: float | None
    samples_per_s: float | None
    samples: int | None
    parameters: dict[str, int]
    settings: dict[str, str]
    charts: tuple[Chart, ...]
    checkpoints: tuple[Checkpoint, ...]
    strips: tuple[Strip, ...]
    sessions: tuple[Session, ...]
    damaged_lines: int = 0
    """Lines of the history that could not be read."""


class Report(msgspec.Struct, frozen=True):
    """A run and its stages, in the order in which they are trained."""

    name: str
    directory: str
    made: str
    recipe: str | None
    settings: dict[str, str]
    stages: tuple[Stage, ...]
    num_shards: int
    """Shards of trajectories."""


def read_report(directory: Path) -> Report:
    """Return what is known of a run, or of a single stage; raise ``NoRunError`` if it is none."""
    folders = [directory] if (directory / _HISTORY).exists() else _stages(directory)
    if not folders:
        there = sorted(p.name for p in directory.iterdir())[:8] if directory.is_dir() else []
        raise NoRunError(
            f"{directory} holds no history of training ({_HISTORY}), nor does a folder in it; "
            f"there is: {', '.join(there) or 'nothing'}. Name what --directory named in `run`."
        )
    note = read_note(directory if directory / _HISTORY not in folders else directory.parent)
    return Report(
        name=directory.resolve().name,
        directory=str(directory),
        made=datetime.now(UTC).isoformat(timespec="minutes"),
        recipe=note.get("recipe"),
        settings=dict(_flat(note.get("settings", {}))),
        stages=tuple(_stage(folder) for folder in folders),
        num_shards=len(list((directory / "trajectories").glob("*.safetensors"))),
    )


def _stages(directory: Path) -> list[Path]:
    found = [path.parent for path in directory.glob(f"*/{_HISTORY}")]
    place = {name: number for number, name in enumerate(_ORDER)}
    began = {path: (path / _HISTORY).stat().st_mtime for path in found}
    return sorted(found, key=lambda path: (place.get(path.name, len(place)), began[path]))


def _stage(folder: Path) -> Stage:
    lines, damaged, seconds = _lines(folder / _HISTORY)
    run, last = read_run(folder), lines[-1] if lines else {}
    note = read_stage_note(folder)
    step = int(last.get("step", 0))
    steps = int(run.settings["steps"]) if run else step
    is_done = step >= steps or folder.with_suffix(".safetensors").exists()
    return Stage(
        name=folder.name,
        objective=note.objective if note else None,
        state="finished" if is_done else "unfinished",
        step=step,
        steps=steps,
        seconds=seconds,
        eta_s=None if is_done else last.get("eta_s"),
        samples_per_s=last.get("samples_per_s"),
        samples=run.samples if run else None,
        parameters=run.parameters if run else {},
        settings=(dict(_flat(run.settings)) if run else {})
        | (dict(_flat({"options": note.options})) if note else {}),
        charts=tuple(_charts(lines)),
        checkpoints=tuple(_checkpoints(folder)),
        strips=tuple(_strips(folder / SAMPLES)),
        sessions=run.sessions if run else (),
        damaged_lines=damaged,
    )


def _lines(path: Path) -> tuple[list[Mapping[str, float]], int, float]:
    """Return lines by step, those that cannot be read, and the seconds spent.

    Steps that a resumed run did again count as it did them the last time.
    """
    by_step: dict[int, Mapping[str, float]] = {}
    damaged, before, last = 0, 0.0, 0.0
    for text in path.read_text(errors="replace").splitlines():
        try:
            line = json.loads(text)
            step, seconds = int(line["step"]), float(line.get("seconds", 0))
        except (ValueError, KeyError, TypeError):
            damaged += 1
            continue
        if seconds < last:  # another session began to count
            before += last
        last = seconds
        by_step = (
            {n: kept for n, kept in by_step.items() if n < step} if step in by_step else by_step
        )
        by_step[step] = line
    return [by_step[step] for step in sorted(by_step)], damaged, before + last


def _charts(lines: list[Mapping[str, float]]) -> Iterator[Chart]:
    grouped: dict[str, dict[str, list[Point]]] = {}
    for line in lines:
        for name, value in line.items():
            if name in _SKIPPED or not isinstance(value, int | float):
                continue
            role, _, key = name.rpartition("/")
            series = grouped.setdefault(key, {})
            series.setdefault(role or _title(key), []).append((line["step"], float(value)))
    order = [*_TITLES, *sorted(grouped.keys() - _TITLES.keys())]
    for key in order:
        if key in grouped:
            series = {name: tuple(points) for name, points in grouped[key].items()}
            yield Chart(key, _title(key), series)


def _title(key: str) -> str:
    return _TITLES.get(key, key.replace("_", " ").capitalize())


def _checkpoints(folder: Path) -> Iterator[Checkpoint]:
    for about in sorted((folder / "checkpoints").glob("*/about.json")):
        files = [path for path in about.parent.iterdir() if path.is_file()]
        written = datetime.fromtimestamp(about.stat().st_mtime, UTC)
        yield Checkpoint(
            about.parent.name,
            int(about.parent.name) if about.parent.name.isdigit() else 0,
            round(sum(path.stat().st_size for path in files) / 1e6, 2),
            written.isoformat(timespec="minutes"),
        )


def _strips(folder: Path) -> Iterator[Strip]:
    if (folder / "truth.png").exists():
        yield Strip("truth", str(folder / "truth.png"))
    for path in sorted(folder.glob("[0-9]*.png")):
        yield Strip(f"step {int(path.stem):,}", str(path))


def _flat(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Yield settings by the paths with which they are set."""
    if isinstance(value, Mapping) and value:
        for name, below in value.items():
            yield from _flat(below, f"{path}.{name}" if path else str(name))
    elif path:
        yield path, value if isinstance(value, str) else json.dumps(value)
