"""`af-runtime bench --sessions`: how many sessions in real time this machine holds."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from af_runtime.errors import RequestError
from af_runtime.outputs import replacing

if TYPE_CHECKING:
    from af_runtime.capacity.record import Capacity, Trial


def measure_sessions(
    sessions: str,
    preset: str,
    overrides: dict[str, Any],
    *,
    threads: int,
    capacity: Path | None,
    json: Path | None,
) -> None:
    """Find the number (``auto``) and write it where `serve` looks, or measure a given number."""
    if sessions != "auto" and not (sessions.isdigit() and int(sessions)):
        raise RequestError(f"--sessions takes `auto`, or a number from 1 on; got {sessions!r}.")
    from af_core.graph import open_pipeline
    from af_core.pipeline import build

    from af_runtime.capacity.record import Capacity, default_path, key_of, save
    from af_runtime.capacity.search import SHARE, find_capacity, measure

    console = Console(stderr=True, highlight=False)
    pipeline = open_pipeline(preset, overrides)
    key, avatar = key_of(pipeline, threads), build(pipeline)
    with console.status("measuring: every session needs a block in time") as status:

        def show(trial: "Trial") -> None:
            status.update(f"{_way(trial)}: {trial.p99_ms:.0f} ms at p99")

        if sessions == "auto":
            found = find_capacity(avatar, key, on_trial=show)
        else:
            trials = tuple(measure(avatar, int(sessions), together=t) for t in (False, True))
            best = min(trials, key=lambda one: one.p99_ms)
            budget_ms = SHARE * avatar.info.block_ms
            found = Capacity(key, best.sessions * best.holds, best.together, budget_ms, trials)
    console.print(_page(found))
    if sessions == "auto":
        path = capacity or default_path(key.preset)
        save(found, path)
        console.print(f"Wrote [bold]{escape(str(path))}[/]; `af-runtime serve` reads it.")
        if not found.sessions:
            console.print("Not one is held. Was anything else running? Then measure again.")
    text = msgspec.json.format(msgspec.json.encode(found), indent=1).decode() + "\n"
    if json == Path("-"):
        sys.stdout.write(text)
    elif json is not None:
        with replacing(json) as part:
            part.write_text(text)


def _page(found: "Capacity") -> Table:
    where = found.key.device if found.key.device != "cpu" else found.key.cpu
    table = Table(
        title=f"{found.key.preset} on {where}, {found.key.threads} threads: "
        f"{found.sessions} sessions in real time",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    for name in ("sessions", "a block for each, p50", "p99", f"within {found.budget_ms:.0f} ms"):
        table.add_column(name)
    for trial in found.trials:
        fits = "[green]yes[/]" if trial.holds else "[red]no[/]"
        table.add_row(_way(trial), f"{trial.p50_ms:.1f} ms", f"{trial.p99_ms:.1f} ms", fits)
    return table


def _way(trial: "Trial") -> str:
    return f"{trial.sessions} {'as one batch' if trial.together else 'one after another'}"
