"""``af-runtime weights inspect|convert``: what is in a checkpoint, and a merged copy of it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.filesize import decimal
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from af_runtime.commands.output import print_json, short_count
from af_runtime.errors import UnavailableError
from af_runtime.outputs import checked_output

if TYPE_CHECKING:
    from af_core.weights.inspection import EntryReport

KINDS = {
    "safetensors": "safetensors",
    "index": "index of safetensors files",
    "torch": "PyTorch checkpoint",
}


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    group = typer.Typer(
        no_args_is_help=True,
        help="Look into checkpoints and convert them. PyTorch files are read without running code.",
    )
    group.command("inspect")(inspect)
    group.command("convert")(convert)
    app.add_typer(group, name="weights")


def inspect(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A checkpoint of any kind.")],
    json: Annotated[bool, typer.Option("--json", help="Answer as JSON on stdout.")] = False,
) -> None:
    """Tell what a file holds: family, parameters, types, adapters, licence; reads no tensor."""
    from af_core.weights.inspection import inspect as inspected

    report = inspected(file)
    if json:
        print_json(report)
        return
    console = Console(highlight=False)
    console.print(
        f"[bold]{escape(str(file))}[/]  {KINDS[report.kind]}, {decimal(report.num_bytes)}"
    )
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for entry in report.entries:
        _describe(entry, table)
    for key, value in sorted(report.metadata.items()):
        table.add_row(f"[dim]{escape(key)}[/]", escape(value))
    console.print(table)


def convert(
    source: Annotated[Path, typer.Argument(metavar="IN", help="A checkpoint of any kind.")],
    out: Annotated[Path, typer.Argument(metavar="OUT.safetensors", help="The file to write.")],
    entry: Annotated[
        str | None, typer.Option(help="State dict to take of several, such as generator_ema.")
    ] = None,
    dtype: Annotated[
        Literal["float32", "bfloat16", "float16"] | None,
        typer.Option(help="Type of the weights; by default as they are."),
    ] = None,
    alpha: Annotated[
        float, typer.Option(help="Strength of adapters, which are merged: alpha / rank.")
    ] = 64.0,
    names: Annotated[
        Literal["native", "diffusers"], typer.Option(help="Names for a Wan network.")
    ] = "native",
    json: Annotated[bool, typer.Option("--json", help="Print what was written as JSON.")] = False,
) -> None:
    """Write one state dict as safetensors: adapters merged, wrappers gone, origin in the header.

    Example: af-runtime weights convert denoiser.pt denoiser.safetensors --dtype bfloat16
    """
    path = checked_output(out, (".safetensors",), inputs=[source])
    import torch
    from af_core.weights.export import export

    console = Console(stderr=True, highlight=False)
    with _written(path), _bar(console) as show:
        made = export(
            source,
            path,
            entry=entry,
            dtype=getattr(torch, dtype) if dtype else None,
            alpha=alpha,
            naming=names,
            on_progress=show,
        )
    if json:
        print_json(made)
    merged = f", {made.num_merged} adapters merged" if made.num_merged else ""
    console.print(
        f"Wrote [bold]{escape(made.path)}[/]: {made.family}, {made.num_tensors} tensors, "
        f"{short_count(made.num_parameters)} parameters in {made.dtype}{merged}."
    )


def _describe(entry: "EntryReport", table: Table) -> None:
    table.add_row(f"[bold]{escape(entry.entry) or 'state dict'}[/]", escape(entry.title))
    kinds = ", ".join(f"{kind} {short_count(n)}" for kind, n in entry.dtypes.items())
    parameters = short_count(entry.num_parameters)
    table.add_row("", f"{entry.num_tensors} tensors, {parameters} parameters; stored: {kinds}")
    if entry.num_adapters:
        rank = f"rank {entry.adapter_rank}" if entry.adapter_rank else "different ranks"
        adapters = short_count(entry.adapter_parameters)
        table.add_row("", f"{entry.num_adapters} adapters to merge, {rank}, {adapters} parameters")
    if entry.sizes:
        table.add_row("", " ".join(f"{name}={size}" for name, size in entry.sizes.items()))
    table.add_row("", f"[dim]licence:[/] {escape(entry.licence)}")


@contextmanager
def _written(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as e:
        raise UnavailableError(f"{path} could not be written: {e.strerror or e}.") from e


@contextmanager
def _bar(console: Console) -> Iterator[Callable[[str, int, int], None]]:
    if not console.is_terminal:
        yield lambda doing, done, total: None
        return
    columns: tuple[Any, ...] = (
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:.0f} %"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("opening", total=None)

        def show(doing: str, done: int, total: int) -> None:
            bar.update(task, description=doing, completed=done, total=total)

        yield show
