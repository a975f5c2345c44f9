"""`af-train evaluate`: scores of a preset, or of weights side by side."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from af_core.errors import ConfigError
from rich.console import Console
from rich.table import Table

from af_train.evaluation import ABOUT, LAMP_WANTED, evaluate_lamp, evaluate_preset


def evaluate(
    preset: str,
    weights: Sequence[Path],
    settings: Sequence[str],
    *,
    clips: int,
    seconds: int,
    threads: int,
    strip: Path | None,
    as_json: bool,
    console: Console,
) -> None:
    """Measure and say what was found: a column for each file, or for the preset as it is."""
    if strip is not None and (len(weights) > 1 or preset == "lamp"):
        raise ConfigError("--strip is for one avatar: it shows frames of a preset or of one file.")
    if preset == "lamp":
        found = evaluate_lamp(weights, settings)
    else:
        found = [
            evaluate_preset(
                preset,
                settings,
                weights=file,
                num_clips=clips,
                duration_s=seconds,
                threads=threads,
                strip=strip,
                console=console,
            )
            for file in weights or [None]
        ]
    if as_json:
        told = found if len(found) > 1 else found[0]
        sys.stdout.write(msgspec.json.encode(told).decode() + "\n")
        return
    columns = dict(zip([*map(str, weights)] or ["value"], found, strict=True))
    console.print(
        _table(preset, {"wanted": LAMP_WANTED} | columns if preset == "lamp" else columns)
    )


def _table(title: str, columns: Mapping[str, Mapping[str, Any]]) -> Table:
    table, scores = Table("measure", *columns, title=title), [*columns.values()]
    for name in scores[-1]:
        if name not in ABOUT:
            table.add_row(name, *(_text(one[name]) for one in scores))
    return table


def _text(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)
