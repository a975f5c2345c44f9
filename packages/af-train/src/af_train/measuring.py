"""Measure a preset with metrics of any plugin on clips of the toon world."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from af_core.geometry import Geometry
from af_core.graph import parse_overrides
from af_core.pipeline import load
from af_core.plugins import BuildContext, load_catalog
from rich.console import Console
from rich.progress import Progress

from af_train.metrics.report import SuiteReport
from af_train.metrics.suite import build_suite
from af_train.metrics.toon_pairs import toon_pairs
from af_train.recipes.settings import SettingError


def measure_preset(
    preset: str,
    metrics: Sequence[str],
    settings: Sequence[str],
    *,
    num_clips: int,
    duration_s: int,
    threads: int,
    console: Console,
) -> SuiteReport:
    """Return the report of a preset. ``settings`` are options of metrics, ``fid.every=2``."""
    torch.set_num_threads(threads)
    wanted = tables(metrics, parse_overrides([*settings]))
    catalog = load_catalog()
    avatar = load(preset)
    context = BuildContext(Geometry(avatar.info.height, avatar.info.width))
    suite = build_suite(catalog, wanted, context)
    with Progress(console=console) as bar:
        task = bar.add_task("clips", total=num_clips)
        return suite.run(
            toon_pairs(avatar, num_clips, duration_s),
            progress=lambda done: bar.update(task, completed=done),
        )


def tables(metrics: Sequence[str], options: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return a table of options for each metric; ``a.b.c`` is option c of table b of metric a.

    Raises ``SettingError`` for an option of a metric that is not asked for.
    """
    found: dict[str, dict[str, Any]] = {name: {} for name in metrics}
    for path, value in options.items():
        name, *inner = path.split(".")
        if name not in found or not inner:
            raise SettingError(
                f"--set {path}: options are written METRIC.OPTION=VALUE, for a metric that is "
                f"asked for: {', '.join(found)}."
            )
        table = found[name]
        for key in inner[:-1]:
            table = table.setdefault(key, {})
        table[inner[-1]] = value
    return found
