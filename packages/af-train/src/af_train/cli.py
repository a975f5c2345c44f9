"""``af-train``: run recipes, evaluate avatars, export weights. A thin skin over the library."""

import sys
from pathlib import Path
from typing import Annotated

import typer
from af_core.errors import AvatarForcingError
from rich.console import Console
from rich.markup import escape
from rich.table import Table

app = typer.Typer(no_args_is_help=True, add_completion=False, help=__doc__)
_console = Console(stderr=True)
_BAD_CONFIG = 78
_USAGE = 2


class UnknownNameError(AvatarForcingError):
    """No recipe or suite has this name."""


@app.command()
def run(
    recipe: Annotated[str, typer.Argument(help="What to train: toon, toon_sync.")],
    directory: Annotated[
        Path | None, typer.Option(help="Checkpoints and results; runs/RECIPE if left out.")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Recipe option, NAME=VALUE; repeatable.")
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="Cores for arithmetic.")] = 2,
) -> None:
    """Train; a run that was stopped goes on where it was."""
    import torch

    from af_train.recipes.settings import parse_settings
    from af_train.recipes.toon import ToonRecipe, train_toon
    from af_train.recipes.toon_sync import ToonSyncRecipe, train_toon_sync

    _known(recipe, "recipe", ["toon", "toon_sync"])
    torch.set_num_threads(threads)
    folder = directory or Path("runs") / recipe
    if recipe == "toon_sync":
        train_toon_sync(folder, parse_settings(ToonSyncRecipe, settings or []), _console.print)
    else:
        train_toon(folder, parse_settings(ToonRecipe, settings or []), _console.print)


@app.command()
def export(
    recipe: Annotated[str, typer.Argument(help="Whose weights: toon.")],
    target: Annotated[Path, typer.Argument(help="Folder for the safetensors files.")],
    directory: Annotated[Path, typer.Option(help="Where it was trained.")] = Path("runs/toon"),
    readers: Annotated[
        bool, typer.Option("--readers", help="Write the networks that evaluate reads with instead.")
    ] = False,
) -> None:
    """Write trained weights as the preset reads them."""
    from af_train.recipes.toon import export_readers, export_toon

    _known(recipe, "recipe", ["toon"])
    for path in (export_readers if readers else export_toon)(directory, target):
        _console.print(f"{path}  {path.stat().st_size / 1e6:.1f} MB")


@app.command()
def gallery(
    folder: Annotated[Path, typer.Argument(help="Folder for the PNG files.")],
) -> None:
    """Draw the portraits that come with the toon preset."""
    from af_train.recipes.toon_gallery import draw_gallery

    _console.print(f"{len(draw_gallery(folder))} portraits in {folder}")


@app.command()
def evaluate(
    preset: Annotated[str, typer.Argument(help="Preset or pipeline file.")] = "toon",
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
    """Measure lips, drift, identity and motion of an avatar on a suite."""
    _known(suite, "suite", ["toon"])
    from af_train.evaluation import evaluate_preset

    scores = evaluate_preset(
        preset,
        settings or [],
        num_clips=clips,
        duration_s=seconds,
        threads=threads,
        strip=strip,
        console=_console,
    )
    if as_json:
        import msgspec

        sys.stdout.write(msgspec.json.encode(scores).decode() + "\n")
        return
    table = Table("measure", "value", title=f"{preset}: suite {suite}")
    for name, value in scores.items():
        table.add_row(name, f"{value:.3f}" if isinstance(value, float) else str(value))
    _console.print(table)


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


def _known(name: str, kind: str, names: list[str]) -> None:
    if name not in names:
        raise UnknownNameError(f"No {kind} named {name!r}; there is: {', '.join(names)}.")


def main() -> None:
    """Run the command line; a user's error is one message and an exit code, no traceback."""
    try:
        app()
    except UnknownNameError as error:
        _console.print(f"[red]error[/red] {escape(str(error))}")
        raise SystemExit(_USAGE) from None
    except AvatarForcingError as error:
        _console.print(f"[red]error[/red] {escape(str(error))}")
        raise SystemExit(_BAD_CONFIG) from None
