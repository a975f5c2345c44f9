"""``af-train``: run recipes, evaluate avatars, export weights. A thin skin over the library."""

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from af_core.errors import AvatarForcingError
from rich.console import Console
from rich.markup import escape

from af_train.commands import benchmark
from af_train.commands.ablate import ablate
from af_train.recipes.settings import UnknownNameError

app = typer.Typer(no_args_is_help=True, add_completion=False, help=__doc__)
app.add_typer(benchmark.app, name="benchmark")
app.command()(ablate)
_console = Console(stderr=True)
_BAD_CONFIG = 78
_USAGE = 2
_RECIPES = (
    "toon, toon_sync; toon_distill or toon_teacher|backfill|ode|dmd; lamp, paper_1_3b alike; "
    "liveavatar or liveavatar_teacher|forcing|dmd; a chain's name alone runs its stages in order"
)
_WORLDS = ("toon", "lamp", "paper_1_3b")


@app.command()
def run(
    recipe: Annotated[str, typer.Argument(help=f"What to train: {_RECIPES}.")],
    directory: Annotated[
        Path | None, typer.Option(help="Checkpoints and results; runs/RECIPE or runs/distill.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="Recipe option, NAME=VALUE or dmd.trainer.steps=VALUE."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Tell stages, memory and what is missing; run none.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="The dry run on standard output.")
    ] = False,
    threads: Annotated[int, typer.Option(min=1, help="Cores for arithmetic.")] = 2,
) -> None:
    """Train; a run that was stopped goes on where it was. Works under torchrun."""
    import torch

    from af_train.recipes.settings import parse_settings
    from af_train.recipes.toon import ToonRecipe, train_toon
    from af_train.recipes.toon_sync import ToonSyncRecipe, train_toon_sync

    torch.set_num_threads(threads)
    if dry_run:
        from af_train.commands.dry_run import tell

        tell(recipe, directory, settings or [], as_json=as_json, console=_console)
        return
    if recipe == "toon":
        made = parse_settings(ToonRecipe, settings or [])
        train_toon(directory or Path("runs/toon"), made, _console.print)
        return
    if recipe == "toon_sync":
        chosen = parse_settings(ToonSyncRecipe, settings or [])
        train_toon_sync(directory or Path("runs/toon_sync"), chosen, _console.print)
        return
    began = time.time()
    chain, stage = _chain(recipe, directory, settings)
    from af_train.parallel import leave_world

    path = getattr(chain, stage or "run")()
    leave_world()
    _say_left(path, began)


def _say_left(path: Path, began: float) -> None:
    """Say what a stage has left, and if it was there before the command began."""
    files = [path] if path.is_file() else [*path.iterdir()]
    _console.print(f"{path}  {sum(file.stat().st_size for file in files) / 1e6:.1f} MB")
    if max((file.stat().st_mtime for file in files), default=began) < began:
        also = f" and the folder {path.with_suffix('')}" if path.is_file() else ""
        _console.print(f"It was there already. To make it again, remove it{also}.")


@app.command()
def backfill(
    world: Annotated[str, typer.Argument(help=f"Whose teacher: {', '.join(_WORLDS)}.")],
    directory: Annotated[Path | None, typer.Option(help="Where the teacher was trained.")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="Recipe option, such as backfill.num_clips=512."),
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="Cores for arithmetic.")] = 2,
) -> None:
    """Write a teacher's trajectories; stop it and go on at will. Works under torchrun."""
    _known(world, "world", _WORLDS)
    import torch

    torch.set_num_threads(threads)
    from af_train.parallel import leave_world

    chain, _ = _chain(f"{world}_backfill", directory, settings)
    folder = chain.backfill()
    leave_world()
    _console.print(f"{len(list(folder.iterdir()))} shards in {folder}")


def _chain(
    recipe: str, directory: Path | None, settings: list[str] | None
) -> tuple[Any, str | None]:
    """Return the chain a recipe belongs to, with settings applied, and the stage it names."""
    from af_train.parallel import join_world
    from af_train.recipes.catalogue import find
    from af_train.recipes.settings import with_settings
    from af_train.recipes.stages import require_stage, stages_of

    family, stage = find(recipe)
    made = with_settings(family.recipe(), settings or [])
    where = directory or Path(family.directory)
    for name, part in stages_of(made).items():  # before data is drawn and weights are read
        if stage in (None, name):
            require_stage(where, name, part)
    return family.chain(where, made, join_world()), stage


@app.command()
def prepare(
    source: Annotated[Path, typer.Argument(help="Folder of videos, or a .jsonl or .csv manifest.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder of the store.")],
    preset: Annotated[str, typer.Option(help="Preset or pipeline file that encodes.")] = "toon",
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Pipeline option, a.b=c; repeatable.")
    ] = None,
    fit: Annotated[str, typer.Option(help="How frames are fitted: crop, pad, release.")] = "crop",
    latents: Annotated[
        int, typer.Option(min=1, help="Latents of a clip after the first; 20 are 3.24 s.")
    ] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="Summary on standard output.")] = False,
    threads: Annotated[int, typer.Option(min=1, help="Cores for arithmetic.")] = 2,
) -> None:
    """Turn recordings into clips to train on; files that will not do are listed, not fatal.

    Stop it and go on at will. Works under torchrun. Exits with 1 if no recording was usable.
    """
    import msgspec
    import torch

    from af_train.commands.prepare import prepare as prepare_store
    from af_train.data.prepare import PrepareConfig

    torch.set_num_threads(threads)
    _known(fit, "fit", ("crop", "pad", "release"))
    config = msgspec.convert({"clip_latents": latents, "fit": fit}, PrepareConfig)
    code = prepare_store(
        source, output, preset, settings or [], config, as_json=as_json, console=_console
    )
    raise typer.Exit(code)


@app.command()
def export(
    source: Annotated[
        Path,
        typer.Argument(help="A run, a stage, a checkpoint or a stage's file; or the recipe toon."),
    ],
    target: Annotated[
        Path | None, typer.Argument(help="For the recipe toon: folder for its files.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="File to write, .safetensors.")
    ] = None,
    half: Annotated[
        bool, typer.Option("--half", help="In half precision, as shipped weights are.")
    ] = False,
    role: Annotated[
        str | None, typer.Option(help="Of a checkpoint: student, teacher or critic.")
    ] = None,
    average: Annotated[
        bool, typer.Option(help="Of a checkpoint: averaged weights, where there are any.")
    ] = True,
    base: Annotated[
        Path | None, typer.Option(help="Of a checkpoint of an adapter: what it stands on.")
    ] = None,
    blend: Annotated[
        Path | None, typer.Option(help="Weights of the same lineage to average with, a file.")
    ] = None,
    share: Annotated[
        float | None, typer.Option(help="Share of --blend in the average; .5 by default.")
    ] = None,
    metrics: Annotated[
        Path | None, typer.Option(help="JSON of `evaluate` or `measure`, for header and card.")
    ] = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Stream a second with the file, and compare.")
    ] = False,
    preset: Annotated[
        str | None, typer.Option(help="Pipeline to verify with; by default the run's.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Result on standard output.")] = False,
    directory: Annotated[
        Path, typer.Option(help="For the recipe toon: where it was trained.")
    ] = Path("runs/toon"),
    readers: Annotated[
        bool, typer.Option("--readers", help="For the recipe toon: the reading networks instead.")
    ] = False,
) -> None:
    """Write trained weights as a file that streams; of the recipe toon, all files of the preset."""
    if output is not None:
        from af_train.commands.export import export_weights

        _known(role or "student", "role", ("student", "teacher", "critic"))
        export_weights(
            source,
            output,
            role=role,
            averaged=average,
            base=base,
            blend=blend,
            share=share,
            half=half,
            metrics=metrics,
            check=verify,
            preset=preset,
            as_json=as_json,
            console=_console,
        )
        return
    from af_train.recipes.toon import export_readers, export_toon

    if target is None:
        raise UnknownNameError("Where to? -o FILE.safetensors; or, for the recipe toon, a folder.")
    _known(str(source), "recipe", ["toon"])
    for path in (export_readers if readers else export_toon)(directory, target):
        _console.print(f"{path}  {path.stat().st_size / 1e6:.1f} MB")


@app.command()
def report(
    directory: Annotated[Path, typer.Argument(help="A run, or one stage of it.")],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Page to write; report.html in there.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="The numbers instead, on standard output.")
    ] = False,
) -> None:
    """Draw a run as one page: curves, pace, settings, checkpoints and samples over time."""
    from af_train.report.page import render
    from af_train.report.runs import read_report

    found = read_report(directory)
    if as_json:
        import msgspec

        sys.stdout.write(msgspec.json.encode(found).decode() + "\n")
        return
    path = output or directory / "report.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(render(found), "utf-8")
    stages = ", ".join(f"{stage.name} {stage.step}/{stage.steps}" for stage in found.stages)
    _console.print(f"{path}  {path.stat().st_size / 1e3:.0f} kB: {stages}")


@app.command()
def gallery(
    folder: Annotated[Path, typer.Argument(help="Folder for the PNG files.")],
) -> None:
    """Draw the portraits that come with the toon preset."""
    from af_train.recipes.toon_gallery import draw_gallery

    _console.print(f"{len(draw_gallery(folder))} portraits in {folder}")


@app.command()
def evaluate(
    preset: Annotated[str, typer.Argument(help="Preset or pipeline file; or lamp.")] = "toon",
    weights: Annotated[
        list[Path] | None,
        typer.Argument(help="Denoisers to measure side by side, instead of the preset's own."),
    ] = None,
    suite: Annotated[str, typer.Option(help="Which measures: toon.")] = "toon",
    clips: Annotated[
        int, typer.Option(min=1, help="Unseen identities, sentences and voices.")
    ] = 32,
    seconds: Annotated[int, typer.Option(min=2, help="Length of each clip.")] = 60,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Pipeline option, a.b=c; repeatable.")
    ] = None,
    strip: Annotated[
        Path | None, typer.Option(help="Write a sheet of frames, truth above.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Scores on standard output.")] = False,
    threads: Annotated[int, typer.Option(min=1, help="Cores for arithmetic.")] = 2,
) -> None:
    """Measure lips, drift, identity and motion of an avatar on a suite.

    ``evaluate lamp FILE ...`` measures students of the lamp world against what they should make,
    on streams of its own: clips and seconds do not apply.
    """
    _known(suite, "suite", ["toon"])
    from af_train.commands.evaluate import evaluate as measured

    measured(
        preset,
        weights or [],
        settings or [],
        clips=clips,
        seconds=seconds,
        threads=threads,
        strip=strip,
        as_json=as_json,
        console=_console,
    )


@app.command()
def measure(
    metrics: Annotated[list[str], typer.Argument(help="Metrics by name: fid ssim csim ...")],
    preset: Annotated[str, typer.Option(help="Preset or pipeline file.")] = "toon",
    clips: Annotated[int, typer.Option(min=1, help="Clips of unseen people and voices.")] = 8,
    seconds: Annotated[int, typer.Option(min=1, help="Length of each clip.")] = 10,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="METRIC.OPTION=VALUE; repeatable.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Report on standard output.")] = False,
    threads: Annotated[int, typer.Option(min=1, help="Cores for arithmetic.")] = 2,
) -> None:
    """Measure an avatar with metrics of any plugin; docs/metrics.md defines ours."""
    from af_train.measuring import measure_preset

    report = measure_preset(
        preset,
        metrics,
        settings or [],
        num_clips=clips,
        duration_s=seconds,
        threads=threads,
        console=_console,
    )
    if as_json:
        sys.stdout.write(report.json() + "\n")
        return
    _console.print(report.table(f"{preset}: {clips} clips of {seconds} s"))
    for skip in report.skipped:
        _console.print(f"skipped {escape(skip.clip)}, {skip.metric}: {escape(skip.reason)}")


def _known(name: str, kind: str, names: Sequence[str]) -> None:
    if name not in names:
        raise UnknownNameError(f"No {kind} named {name!r}; there is: {', '.join(names)}.")


def main() -> None:
    """Run the command line; a user's error is one message and an exit code, no traceback."""
    try:
        app()
    except UnknownNameError as error:
        _console.print(f"[red]error:[/red] {escape(str(error))}")
        raise SystemExit(_USAGE) from None
    except AvatarForcingError as error:
        _console.print(f"[red]error:[/red] {escape(str(error))}")
        raise SystemExit(_BAD_CONFIG) from None
