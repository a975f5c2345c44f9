"""``af-train benchmark make|run``: the long-form benchmark of the toon world."""

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from af_train.benchmark.report import Summary
    from af_train.benchmark.running import BenchmarkRun

app = typer.Typer(no_args_is_help=True, help="Long clips, hundreds of them: make and run them.")
_console = Console(stderr=True)


@app.command()
def make(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the benchmark.")],
    clips: Annotated[int, typer.Option(min=1, help="How many; the first 24 are `laptop`.")] = 400,
    seed: Annotated[int, typer.Option(help="Another seed, other people and sentences.")] = 0,
    render: Annotated[
        bool,
        typer.Option("--render", help="Speak all clips now; without it, each when it is used."),
    ] = False,
) -> None:
    """Write the list of clips: who says what, how long, in which voice and noise."""
    from af_train.benchmark.specs import make_benchmark, write_benchmark

    benchmark = make_benchmark(clips, seed)
    path = write_benchmark(benchmark, output)
    minutes = sum(spec.duration_s for spec in benchmark.clips) / 60
    if render:
        _render(output, benchmark.clips)
    length = f"{minutes / 60:.1f} hours" if minutes > 90 else f"{minutes:.0f} minutes"
    _console.print(f"{path}  {clips} clips, {length}")
    _console.print(f"next: af-train benchmark run --preset toon --on {output} --subset laptop")


def _render(directory: Path, clips: tuple) -> None:
    from af_train.benchmark.clips import ClipFolder
    from af_train.loop import progress_bar

    folder = ClipFolder(directory / "clips")
    with progress_bar() as bar:
        task = bar.add_task("clips", total=len(clips), log="")
        for spec in clips:
            folder.get(spec)
            bar.advance(task)


@app.command()
def run(
    on: Annotated[Path, typer.Option("--on", help="Folder of the benchmark.")],
    preset: Annotated[str, typer.Option(help="Preset or pipeline file.")] = "toon",
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Pipeline option, a.b=c; repeatable.")
    ] = None,
    subset: Annotated[
        Literal["laptop"] | None, typer.Option(help="The first 24 clips, half an hour.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder of the results; ON/results/...")
    ] = None,
    shard: Annotated[
        str | None,
        typer.Option(help="This process's share, i/n such as 3/8; or torchrun's."),
    ] = None,
    max_seconds: Annotated[
        int | None, typer.Option(min=2, help="Only the beginning of each clip.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Summary on standard output.")] = False,
    threads: Annotated[int, typer.Option(min=1, help="Cores for arithmetic.")] = 2,
) -> None:
    """Evaluate a preset; stop it and go on at will. Whoever finishes last writes the report."""
    import torch

    from af_train.benchmark.running import open_run, parse_shard
    from af_train.benchmark.specs import read_benchmark

    torch.set_num_threads(threads)
    place = parse_shard(shard)
    specs = read_benchmark(on).subset(subset)
    job = open_run(preset, settings or [], on, specs, output=output, max_seconds=max_seconds)
    _measure(job, place)
    if missing := len(job.pending()):
        _console.print(f"{missing} of {len(specs)} clips are left to other shards: {job.directory}")
        return
    summary = _report(job)
    if as_json:
        import msgspec

        sys.stdout.write(msgspec.json.encode(summary).decode() + "\n")
        return
    _show(summary)


def _measure(job: "BenchmarkRun", place: tuple[int, int]) -> None:
    from af_train.loop import progress_bar

    wanted = job.pending(*place)
    with progress_bar() as bar:
        bar.disable = place[0] > 0
        task = bar.add_task("clips", total=len(wanted), log="")
        for record in job.measure(wanted):
            lips = record.scores["lip_corr"]
            bar.update(task, advance=1, log=f"clip {record.number}: lips {lips:.3f}")


def _report(job: "BenchmarkRun") -> "Summary":
    from af_train.benchmark.report import write_report

    command = "af-train " + shlex.join(sys.argv[1:])
    summary, page = write_report(job, command)
    _console.print(f"report: {page}")
    return summary


def _show(summary: "Summary") -> None:
    from af_train.benchmark.report import MEANINGS

    title = f"{summary.run.preset}: {summary.num_clips} clips, {summary.minutes:.3g} minutes"
    table = Table("measure", "value", "95 % interval", title=title)
    for name, score in summary.scores.items():
        bounds = "" if score.low is None else f"{score.low:.3g} .. {score.high:.3g}"
        table.add_row(MEANINGS[name], f"{score.value:.3g}", bounds)
    _console.print(table)
