"""The parts of ``af-runtime bench`` that measure a stream worker, and how they show it."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table

from af_runtime.overhead import OverheadReport, measure
from af_runtime.viewing.report import ViewersReport, view
from af_runtime.viewing.viewer import Where


def bench_viewers(
    console: Console,
    where: tuple[str, str, Path | None, Path | None],
    viewers: int,
    duration_s: float,
    seed: int,
) -> ViewersReport:
    """Let viewers watch a worker, show what they saw, and return it."""
    with _counting(console, "watching", "frames") as count:
        report = view(
            Where(*where), viewers=viewers, duration_s=duration_s, seed=seed, on_frame=count
        )
    console.print(_page(f"{report.preset}: {viewers} viewers, {duration_s:.0f} s", _seen(report)))
    return report


def bench_service(
    console: Console, preset: str, overrides: Mapping[str, Any], duration_s: float, seed: int
) -> OverheadReport:
    """Measure what a worker adds to the avatar alone, show it, and return it."""
    with _counting(console, "measuring", "rounds") as count:
        report = measure(
            preset, overrides=overrides, duration_s=duration_s, seed=seed, on_round=count
        )
    console.print(_page(f"{report.preset}: a worker beside the avatar alone", _added(report)))
    return report


def _seen(report: ViewersReport) -> Iterator[tuple[str, str]]:
    yield "first frame", _line(report.ttff_ms)
    yield "end to end", _line(report.e2e_ms)
    delay = report.delay_ms
    yield (
        "",
        (
            f"of which block {delay['block']:.0f} and look-ahead {delay['lookahead']:.0f} ms; "
            f"added {delay['added_p50']:.0f} ms"
        ),
    )
    yield "by the paper", _line(report.e2e_by_the_paper_ms)
    yield "underruns", f"{report.underruns}, pictures stood still for {report.stall_ms:.0f} ms"
    late = report.deadline_misses
    yield "late frames", f"{late} of {report.frames}, {report.repeats} repeated"
    yield "behind sound", _line(report.skew_ms)
    yield "drawing", f"{_line(report.draw_ms)}; {report.rtf_p95:.2f} of real time at p95"
    for name, numbers in report.stage_ms.items():
        yield f"  {escape(name)}", _line(numbers)
    if report.warnings:
        yield "warnings", ", ".join(f"{code} {n}" for code, n in report.warnings.items())
    for error in report.errors:
        yield "[red]error[/]", escape(error)


def _added(report: OverheadReport) -> Iterator[tuple[str, str]]:
    yield "avatar alone", f"{_line(report.alone_ms)} a step of {report.frames_per_step} frames"
    yield "worker", _line(report.served_ms)
    added, share = report.added_frame_ms_p50, report.added_share_p99
    yield "added", f"{added:+.3f} ms a frame (median); {share:+.2%} of a step at p99"
    yield "noise", f"{report.noise_frame_ms_p50:+.3f} ms a frame, {report.noise_share_p99:+.2%}"
    yield "idle alone", f"{_line(report.idle_alone_ms)} between two blocks"
    yield "idle served", _line(report.idle_served_ms)
    more, share = report.added_idle_frame_ms_p50, report.added_idle_share_p99
    yield "added", f"{more:+.3f} ms a frame (median); {share:+.2%} of a step at p99"
    yield "interrupt", f"acknowledged after {_line(report.interrupt_ms)}"


def _line(numbers: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {numbers[name]:.1f}" for name in ("p50", "p95", "p99", "max")) + " ms"


def _page(title: str, rows: Iterator[tuple[str, str]]) -> Table:
    table = Table(
        title=title, title_justify="left", box=box.SIMPLE_HEAD, show_header=False, pad_edge=False
    )
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, text in rows:
        table.add_row(name, text)
    return table


@contextmanager
def _counting(console: Console, doing: str, what: str) -> Iterator[Any]:
    columns = (TextColumn(f"[bold]{doing}"), BarColumn(), TextColumn("{task.completed} " + what))
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task("", total=None)
        yield lambda: bar.advance(task)
