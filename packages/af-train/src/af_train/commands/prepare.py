"""`af-train prepare`: recordings of people speaking to a store of clips that recipes train on."""

import sys
from pathlib import Path

import msgspec
from af_core.graph import open_pipeline, parse_overrides
from rich.console import Console
from rich.markup import escape

from af_train.data.clip_store import Outcome
from af_train.data.encoders import Encoders
from af_train.data.manifest import list_recordings
from af_train.data.prepare import REPORT, Preparation, PrepareConfig, Summary, summarise
from af_train.loop import progress_bar
from af_train.parallel import place_in_world

_SHOWN = 8


def prepare(
    source: Path,
    directory: Path,
    preset: str,
    settings: list[str],
    config: PrepareConfig,
    *,
    as_json: bool,
    console: Console,
) -> int:
    """Prepare this process's share; return the exit code: 1 if no recording was usable."""
    world = place_in_world()
    listing = list_recordings(source)
    pipeline = open_pipeline(preset, parse_overrides(settings))
    job = Preparation(listing, Encoders.of(pipeline, world.device), config, directory)
    counts = {"clips": 0, "rejected": 0}
    with progress_bar(console) as bar:
        bar.disable = not world.leads
        total = len(range(world.rank, len(listing.recordings), world.size))
        task = bar.add_task("recordings", total=total, log="")

        def heard(outcome: Outcome) -> None:
            counts["clips"] += outcome.clips
            counts["rejected"] += outcome.status == "rejected"
            log = f"{counts['clips']} clips, {counts['rejected']} rejected"
            bar.update(task, advance=1, log=log)

        job.run(world.rank, world.size, heard)
    summary = summarise(directory, listing)
    if summary is None:  # another worker is not done yet; it will sum up
        return 0
    _show(summary, as_json, console)
    return 0 if summary.clips else 1


def _show(summary: Summary, as_json: bool, console: Console) -> None:
    if as_json:
        sys.stdout.write(msgspec.json.encode(summary).decode() + "\n")
        return
    for outcome in summary.problems[:_SHOWN]:
        console.print(f"[yellow]{outcome.status}[/yellow] {escape(outcome.detail or '')}")
    if more := summary.problems[_SHOWN:]:
        console.print(f"... and {len(more)} more")
    if summary.ignored:
        rest = len(summary.ignored[_SHOWN:])
        names = ", ".join(summary.ignored[:_SHOWN]) + (f" and {rest} more" if rest else "")
        console.print(f"ignored, no recordings: {escape(names)}")
    reasons = ", ".join(f"{name} {count}" for name, count in sorted(summary.reasons.items()))
    console.print(
        f"{summary.clips} clips ({summary.hours:.2f} h) of {summary.used + summary.partial} from "
        f"{summary.recordings} recordings in {escape(summary.directory)}; "
        f"{summary.rejected} rejected{f' ({reasons})' if reasons else ''}; "
        f"{summary.left_over_s:.1f} s fill no clip. All of it: {escape(REPORT)}"
    )
    if not summary.clips:
        console.print("[red]No recording was usable.[/red]")
