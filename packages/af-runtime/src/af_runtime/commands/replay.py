"""``af-runtime replay``: a recorded session, drawn again bit for bit."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table

from af_runtime.commands.output import Overrides, print_json
from af_runtime.commands.threads import use_threads
from af_runtime.exit_codes import FAILED

if TYPE_CHECKING:
    from af_runtime.recording.replaying import Replay


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command("replay")(replay)


def replay(
    recording: Annotated[
        Path, typer.Argument(metavar="FILE.afrec", help="Made by `serve --record DIR`.")
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="OUT.mp4", help="What the client was sent."),
    ] = None,
    pipeline: Annotated[
        str | None,
        typer.Option(help="Preset or pipeline file, if it is not where the worker found it."),
    ] = None,
    overrides: Overrides = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads of the model. Default: as recorded.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Draw a recorded session again, bit for bit, with the time of every stage.

    Exits 1 if a picture is not the recorded one. Other weights or options are refused.

    Example: af-runtime serve --record rec & ... ; af-runtime replay rec/*.afrec -o again.mp4
    """
    from af_runtime.recording.records import Recording

    head = Recording(recording).head
    use_threads(threads or int(head.machine.get("threads", "1")))
    from af_core.graph import parse_overrides

    from af_runtime.recording.replaying import replay as library

    changes = parse_overrides(overrides) if overrides else None
    console = Console(stderr=True, highlight=False)
    columns = (TextColumn("[bold]replaying"), BarColumn(), TextColumn("{task.completed} blocks"))
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task("", total=None)
        done = library(
            recording,
            output,
            pipeline=pipeline,
            overrides=changes,
            on_block=lambda block: bar.update(task, completed=block),
        )
    if json:
        print_json({**_table_of(done)})
    else:
        _show(done, console)
    if not done.is_exact:
        sys.exit(FAILED)


def _table_of(done: "Replay") -> dict[str, object]:
    import attrs

    told = attrs.asdict(done)
    paths = {"recording": str(done.recording), "output": done.output and str(done.output)}
    return {"schema": "af-replay/1", "exact": done.is_exact, **told, **paths}


def _show(done: "Replay", console: Console) -> None:
    verdict = (
        f"[green]all {done.num_drawn} pictures are the recorded ones, bit for bit[/]"
        if done.is_exact
        else f"[red]picture {done.first_difference} is not the recorded one[/]"
    )
    if not done.num_drawn:
        verdict = "[yellow]no picture was recorded, so none was compared[/]"
    console.print(f"{done.num_blocks} blocks, {done.num_sent} frames sent: {verdict}")
    if not done.reason:
        console.print(
            f"[yellow]The recording ends before its session did[/] ({done.num_lost_bytes} bytes of "
            "a record that was cut off are left out)."
        )
    for line in done.machine:
        console.print(f"[yellow]This machine may round differently:[/] {escape(line)}")
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("ms a block", no_wrap=True)
    for name in ("p50", "p95", "p99", "max", "recorded p50", "recorded p99"):
        table.add_column(name, justify="right")
    for stage, spread in done.stage_ms.items():
        before = done.recorded_ms.get(stage, {})
        numbers = [*spread.values(), before.get("p50", 0.0), before.get("p99", 0.0)]
        table.add_row(escape(stage), *(f"{number:.2f}" for number in numbers))
    console.print(table)
    if done.output is not None:
        console.print(f"Wrote [bold]{escape(str(done.output))}[/].")
