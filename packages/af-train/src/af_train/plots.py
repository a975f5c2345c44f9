"""Plots of reports, by matplotlib without a display (extra ``af-train[report]``)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np
from af_core.errors import AvatarForcingError
from PIL import Image

_COLOURS = ("#0b6e8a", "#c8553d", "#588b3c", "#7a4f9a", "#b08900", "#555555", "#d27aa5", "#3c6ad6")


class PlottingError(AvatarForcingError):
    """Plots were asked for and cannot be drawn here."""


@attrs.frozen
class Curve:
    """Values over time, with an interval about each."""

    times_s: Sequence[float]
    values: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None


def curves(path: Path, panels: Mapping[str, Mapping[str, Curve]], columns: int = 2) -> Path:
    """Draw panels by title, each with curves by name, over seconds of the stream."""
    plt = _pyplot()
    figure, axes = _grid(plt, len(panels), columns, (4.6, 2.7))
    for axis, (title, named) in zip(axes.flat, panels.items(), strict=False):
        for i, (name, curve) in enumerate(named.items()):
            colour = _COLOURS[i % len(_COLOURS)]
            dash = "-" if i < len(_COLOURS) else "--"
            axis.plot(curve.times_s, curve.values, dash, color=colour, lw=1.4, label=name)
            if curve.low is not None and curve.high is not None:
                axis.fill_between(curve.times_s, curve.low, curve.high, color=colour, alpha=0.15)
        _tidy(axis, title, "seconds")
    names = max(panels.values(), key=len)
    if len(names) > 1:
        lines, labels = axes.flat[0].get_legend_handles_labels()
        figure.legend(lines, labels, loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    return _saved(plt, figure, path)


def distributions(path: Path, panels: Mapping[str, Sequence[float]], columns: int = 4) -> Path:
    """Draw a histogram of each list of numbers, its median marked."""
    plt = _pyplot()
    figure, axes = _grid(plt, len(panels), columns, (2.5, 2.0))
    for axis, (title, values) in zip(axes.flat, panels.items(), strict=False):
        axis.hist(values, bins=min(20, max(5, len(values) // 4)), color=_COLOURS[0], alpha=0.8)
        axis.axvline(float(np.median(values)), color=_COLOURS[1], lw=1.4)
        _tidy(axis, title, "")
    return _saved(plt, figure, path)


def sheet(path: Path, rows: Mapping[str, Sequence[Any]], columns: Sequence[str]) -> Path:
    """Draw rows of pictures uint8 ``[H, W, 3]`` by name, with a head over each column."""
    plt = _pyplot()
    height, width = next(iter(rows.values()))[0].shape[:2]
    wide = 1.0 if width < 2 * height else 1.9
    size = (2.3 + wide * len(columns), (wide * height / width + 0.06) * len(rows) + 0.3)
    figure, axes = plt.subplots(
        len(rows), len(columns), figsize=size, squeeze=False, layout="constrained"
    )
    for i, (name, pictures) in enumerate(rows.items()):
        for axis, picture in zip(axes[i], pictures, strict=False):
            axis.imshow(np.asarray(picture), interpolation="nearest")
        for axis in axes[i]:
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
        axes[i][0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=7)
    for axis, head in zip(axes[0], columns, strict=True):
        axis.set_title(head, fontsize=8)
    return _saved(plt, figure, path)


def _grid(plt: Any, count: int, columns: int, each: tuple[float, float]) -> tuple[Any, Any]:
    """Return a figure and its axes, as many as are wanted, of so many inches each."""
    rows = -(-count // columns)
    size = (each[0] * columns, each[1] * rows)
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")
    for axis in axes.flat[count:]:
        axis.remove()
    return figure, axes


def _tidy(axis: Any, title: str, below: str) -> None:
    axis.set_title(title, fontsize=9, loc="left")
    axis.set_xlabel(below, fontsize=8)
    axis.tick_params(labelsize=7)
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)


def _saved(plt: Any, figure: Any, path: Path) -> Path:
    figure.savefig(path, dpi=100, bbox_inches="tight")
    plt.close(figure)
    with Image.open(path) as drawn:
        few = drawn.convert("RGB").quantize(256, dither=Image.Dither.NONE)
    few.save(path, optimize=True)  # a third of the bytes, and reports are kept
    return path


def _pyplot() -> Any:
    try:
        import matplotlib
    except ImportError as error:
        raise PlottingError(
            "Plots need matplotlib, which is not installed: pip install 'af-train[report]'. "
            "The numbers are on disk already; the same command draws them then."
        ) from error
    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    return plt
