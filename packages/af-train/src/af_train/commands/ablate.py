"""``af-train ablate``: the paper's tables 3 to 6, beside the paper's numbers, with verdicts."""

import shlex
import sys
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.progress import Progress, TaskID

    from af_train.ablation.lamp import LampStudy
    from af_train.ablation.rows import Study
    from af_train.ablation.toon import ToonStudy
    from af_train.recipes.stages import DistillRecipe

_console = Console(stderr=True)
_TABLES = ("table3", "table4", "table5", "table6")

Which = Literal["table3", "table4", "table5", "table6", "all"]


def ablate(
    tables: Annotated[Which, typer.Argument(help="A table of the paper, or all four.")],
    world: Annotated[Literal["lamp", "toon"], typer.Option(help="Where it is tried.")] = "lamp",
    seeds: Annotated[int, typer.Option(min=1, help="Trainings of every row; lamp alone.")] = 3,
    clips: Annotated[
        int | None, typer.Option(min=2, help="Streams of every row; 48 for lamp, 6 for toon.")
    ] = None,
    seconds: Annotated[int, typer.Option(min=2, help="Length of a stream.")] = 60,
    directory: Annotated[
        Path | None, typer.Option(help="Weights and streams; runs/ablation/WORLD.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder of the report; the directory.")
    ] = None,
    students: Annotated[
        Path | None, typer.Option(help="Trained toon students, ROW.safetensors each.")
    ] = None,
    preset: Annotated[str, typer.Option(help="Preset that toon rows change.")] = "toon",
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="Recipe of the lamp world, dmd.trainer.steps=300."),
    ] = None,
    report_only: Annotated[
        bool, typer.Option("--report-only", help="Report the rows that are done; train nothing.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The report's JSON on stdout.")] = False,
    threads: Annotated[int, typer.Option(min=1, help="Cores for arithmetic.")] = 1,
) -> None:
    """Run ablations of the paper: reproduced, not reproduced or undecided, by a stated rule.

    In the lamp world every row is trained, several times; in the toon world the shipped student is
    changed as it streams. What is on disk is not done again: stop it and go on at will.
    """
    import torch

    from af_train.ablation.lamp import LampStudy
    from af_train.ablation.toon import ToonStudy

    torch.set_num_threads(threads)
    began, spent = time.monotonic(), time.process_time()
    wanted = _TABLES if tables == "all" else (tables,)
    folder = directory or Path("runs/ablation") / world
    if world == "lamp":
        lamp = LampStudy(folder, _recipe_of(settings or []), seeds, clips or 48, seconds)
        study = _lamp(lamp, wanted, not report_only)
    else:
        toon = ToonStudy(folder, preset, students, clips or 6, seconds)
        study = _toon(toon, wanted, settings or [], not report_only)
    took = (
        f"This call took {time.process_time() - spent:.0f} s of processor time, "
        f"{time.monotonic() - began:.0f} s by the clock; what an earlier one left was used."
    )
    _finish(study, output or folder, took, as_json)


def _recipe_of(settings: list[str]) -> "Callable[[int], DistillRecipe]":
    from af_train.recipes.lantern import lantern_recipe
    from af_train.recipes.settings import with_settings

    return lambda seed: with_settings(lantern_recipe(seed), settings)


def _lamp(lamp: "LampStudy", wanted: tuple[str, ...], train: bool) -> "Study":
    from af_train.ablation.lamp import claim_study, each_once, lamp_study, variants
    from af_train.loop import progress_bar

    claim_study(lamp)
    total = lamp.num_seeds * len(each_once(variants(), wanted))
    with progress_bar() as bar:
        task = bar.add_task("rows", total=total, log="")
        return lamp_study(lamp, wanted, partial(_advance, bar, task), train=train)


def _toon(toon: "ToonStudy", wanted: tuple[str, ...], settings: list[str], stream: bool) -> "Study":
    from af_core.errors import ConfigError

    from af_train.ablation.toon import toon_study, variants
    from af_train.loop import progress_bar

    if settings:
        raise ConfigError("--set is for the lamp world's recipe; toon rows take --preset.")
    if toon.students is not None and not toon.students.is_dir():
        raise ConfigError(f"--students {toon.students}: there is no such folder.")
    folders = {toon.folder(variant) for table in wanted for variant in variants()[table]}
    with progress_bar() as bar:
        task = bar.add_task("clips", total=len(folders - {None}) * toon.num_clips, log="")
        return toon_study(toon, wanted, partial(_advance, bar, task), stream=stream)


def _advance(bar: "Progress", task: "TaskID", name: str) -> None:
    bar.update(task, advance=1, log=name)


def _finish(study: "Study", output: Path, took: str, as_json: bool) -> None:
    from af_train.ablation.report import write_study

    command = "af-train " + shlex.join(sys.argv[1:])
    page, counts = write_study(study, output, command, took)
    _console.print(f"report: {page}")
    if as_json:
        sys.stdout.write(page.with_suffix(".json").read_text())
        return
    shown = Table("claims of", "reproduced", "not reproduced", "undecided", title=study.world)
    for name, count in counts.items():
        shown.add_row(name, *map(str, count.values()))
    _console.print(shown)
