"""``af-runtime bench``: speed, delay and memory of a preset on this machine."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from af_runtime.commands.connecting import Key, ServerKey
from af_runtime.commands.output import Overrides
from af_runtime.commands.threads import Threads, use_threads
from af_runtime.outputs import checked_output, replacing
from af_runtime.timing import times

if TYPE_CHECKING:
    from af_runtime.benchmark_report import BenchReport


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command("bench")(bench)


def bench(
    preset: Annotated[str, typer.Option(help="A preset, or a pipeline file.")] = "toon",
    duration: Annotated[
        float, typer.Option(metavar="SECONDS", help="Seconds of video to make.")
    ] = 600.0,
    overrides: Overrides = None,
    threads: Threads = None,
    seed: Annotated[int, typer.Option(help="Seed of noise and sound.")] = 0,
    connect: Annotated[
        str | None,
        typer.Option(
            metavar="ENDPOINT", help="Measure the stream worker there, by simulated viewers."
        ),
    ] = None,
    viewers: Annotated[
        int, typer.Option(min=1, help="Viewers of --connect, a session each, in real time.")
    ] = 1,
    portrait: Annotated[
        str, typer.Option(help="A picture, or a portrait the worker ships, for --connect.")
    ] = "iris",
    service: Annotated[
        bool, typer.Option("--service", help="Measure what a worker adds to the avatar alone.")
    ] = False,
    key: Key = None,
    server_key: ServerKey = None,
    json: Annotated[
        Path | None,
        typer.Option("--json", metavar="OUT.json", help="Also write all numbers; - for stdout."),
    ] = None,
    sessions: Annotated[
        str | None,
        typer.Option(metavar="auto|N", help="Find how many sessions are held, for `serve`."),
    ] = None,
    capacity: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Where --sessions auto writes. Default: where it looks."),
    ] = None,
) -> None:
    """Measure speed, delay and memory of a preset on this machine; or a stream worker.

    With --sessions auto it measures instead how many sessions in real time the machine holds, and
    writes a file that `serve` reads. Exits 0 whatever the numbers are.

    Example: af-runtime bench --connect tcp://127.0.0.1:5700 --viewers 2 --duration 60
    """
    out = checked_output(json, (".json",)) if json and json != Path("-") else None
    chosen = use_threads(threads)
    from af_core.graph import parse_overrides

    changes, console = parse_overrides(overrides or []), Console(stderr=True, highlight=False)
    if sessions is not None:
        from af_runtime.commands.sessions import measure_sessions

        measure_sessions(sessions, preset, changes, threads=chosen, capacity=capacity, json=json)
        return
    if connect is not None:
        from af_runtime.commands.viewers import bench_viewers

        where = (connect, portrait, key, server_key)
        report = bench_viewers(console, where, viewers, duration, seed)
    elif service:
        from af_runtime.commands.viewers import bench_service

        report = bench_service(console, preset, changes, duration, seed)
    else:
        from af_runtime import benchmark as library

        with _bar(console) as show:
            report = library.bench(
                preset, overrides=changes, duration_s=duration, seed=seed, on_progress=show
            )
        console.print(page(report))
    _write(report, json, out, console)


def _write(report: Any, json: Path | None, out: Path | None, console: Console) -> None:
    """Write all numbers where they are wanted."""
    text = msgspec.json.format(msgspec.json.encode(report), indent=1).decode() + "\n"
    if json == Path("-"):
        sys.stdout.write(text)
    elif out is not None:
        with replacing(out) as part:
            part.write_text(text)
        console.print(f"Wrote [bold]{escape(str(out))}[/].")


def page(report: "BenchReport") -> Table:
    """Return the numbers a person wants to see, as a table."""
    height, width = report.config["hw"]
    host = f"{report.host['cpu']}, {report.host['threads']} threads"
    table = Table(
        title=f"{report.config['preset']}  {width}x{height}  on {host}",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        show_header=False,
        pad_edge=False,
    )
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, text in (*_speed(report), *_stability(report)):
        table.add_row(name, text)
    return table


def _speed(report: "BenchReport") -> Iterator[tuple[str, str]]:
    ttff, live = report.ttff_ms, report.e2e_ms
    stages = " · ".join(f"{name} {ms:.1f}" for name, ms in report.stage_ms_p50.items())
    yield "real time", f"[bold cyan]{times(report.realtime_factor, 2)}[/], encoding included"
    yield "frames", f"{report.fps:.0f} per second at the median step"
    yield "first frame", f"{ttff['warm']:.0f} ms warm, {ttff['cold']:.0f} ms cold"
    yield "loading", f"{report.load_ms:.0f} ms"
    yield "live delay", f"{live['live_p50']:.0f} ms p50, {live['live_p99']:.0f} ms p99"
    yield "step", _percentiles(report.step_ms, report.run["frames_per_step"])
    yield "stages", f"{stages} ms (encode runs beside the others)"


def _stability(report: "BenchReport") -> Iterator[tuple[str, str]]:
    long = report.long
    low, high = long["slope_ci95"]
    flat = "[green]flat[/]" if long["slope_is_flat"] else "[yellow]not flat[/]"
    minutes = report.run["steps"] * report.e2e_ms["block_ms"] / 60_000
    yield "trend", f"{flat} over {minutes:.1f} min: {long['slope_us_per_step']:+.3f} us a step"
    yield "", f"95 % interval {low:+.3f} to {high:+.3f}"
    age = long["old_over_young"]
    yield "age", f"a step of this stream takes {age['ratio']:.3f} of a young stream's"
    yield "", f"95 % interval {age['ci95'][0]:.3f} to {age['ci95'][1]:.3f}, stepped in turn"
    if "rss_last" in long:
        least, most = long["rss_slope_MBph_ci95"]
        resident = f"{long['rss_last'] / 2**20:.0f} MiB"
        yield "memory", f"{resident}, {long['rss_slope_MBph']:+.1f} MiB an hour of video"
        first, second = long["rss_growth_MB_by_half"]
        yield "", f"95 % interval {least:+.1f} to {most:+.1f}"
        yield "", f"{first:+.1f} MiB in the first half, {second:+.1f} MiB in the second"


def _percentiles(step: dict[str, float], frames: int) -> str:
    spread = ", ".join(f"{name} {step[name]:.1f}" for name in ("p50", "p95", "p99", "max"))
    return f"{spread} ms for {frames} frames"


@contextmanager
def _bar(console: Console) -> Iterator[Callable[..., None]]:
    if not console.is_terminal:
        yield lambda *progress: None
        return
    columns: tuple[Any, ...] = (
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total} steps"),
        TextColumn("[cyan]{task.fields[factor]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("warming up", total=None, factor="")

        def show(step: int, steps: int, factor: float) -> None:
            text = f"{times(factor)} real time"
            bar.update(task, description="measuring", completed=step, total=steps, factor=text)

        yield show
