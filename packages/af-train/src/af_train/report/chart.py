"""Curves as SVG: a line through the means, a band from least to most, colours from the page."""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

import attrs

from af_train.report.runs import Chart, Point

WIDTH, HEIGHT = 420, 232
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 12, 12, 30
_BUCKETS = 160
_WIDE = 30
"""Values that span more than this factor are drawn on a logarithmic axis."""


@attrs.frozen
class Axis:
    """From values to places, and where the marks stand."""

    low: float
    high: float
    start: float
    end: float
    is_log: bool = False

    def at(self, value: float) -> float:
        """Return the place of a value."""
        low, high, value = (self._scaled(v) for v in (self.low, self.high, value))
        share = 0.5 if high == low else (value - low) / (high - low)
        return round(self.start + share * (self.end - self.start), 2)

    def marks(self) -> list[float]:
        """Return some round values."""
        if self.is_log:
            first, last = math.ceil(math.log10(self.low)), math.floor(math.log10(self.high))
            apart = max(1, math.ceil((last - first) / 4))
            decades = [10.0**n for n in range(first, last + 1, apart)]
            return decades if len(decades) > 1 else [self.low, self.high]
        return _round_marks(self.low, self.high)

    def _scaled(self, value: float) -> float:
        return math.log10(max(value, 1e-30)) if self.is_log else value


@attrs.frozen
class Curve:
    """One series as it is drawn."""

    name: str
    colour: int
    line: str
    band: str
    last: str
    """Its last value, in words."""
    dot: tuple[float, float]


@attrs.frozen
class Drawn:
    """A chart as the page needs it."""

    title: str
    summary: str
    """What a reader hears who does not see it."""
    curves: tuple[Curve, ...]
    x_marks: tuple[tuple[float, str], ...]
    y_marks: tuple[tuple[float, str], ...]
    is_log: bool
    width: int = WIDTH
    height: int = HEIGHT
    left: int = _LEFT
    right: int = WIDTH - _RIGHT
    bottom: int = HEIGHT - _BOTTOM


def draw(chart: Chart, colours: Mapping[str, int]) -> Drawn | None:
    """Return a chart as paths; None if it has no finite point."""
    series = {
        name: [p for p in points if math.isfinite(p[1])] for name, points in chart.series.items()
    }
    series = {name: points for name, points in series.items() if points}
    if not series:
        return None
    everything = [point for points in series.values() for point in points]
    x = Axis(*_span([p[0] for p in everything]), _LEFT, WIDTH - _RIGHT)
    y = _value_axis([p[1] for p in everything], from_zero=chart.key in ("samples_per_s", "eta_s"))
    is_time = chart.key == "eta_s"
    say = duration if is_time else number
    curves = tuple(
        _curve(name, colours.get(name, 0), points, x, y, say(points[-1][1]))
        for name, points in series.items()
    )
    steps = everything[-1][0]
    words = ", ".join(f"{curve.name} {curve.last}" for curve in curves)
    return Drawn(
        chart.title,
        f"{chart.title} over {number(steps)} steps; at the end: {words}.",
        curves,
        tuple((x.at(v), number(v)) for v in x.marks() if v == round(v)),
        tuple((y.at(v), say(v)) for v in y.marks()),
        y.is_log,
    )


def _curve(name: str, colour: int, points: Sequence[Point], x: Axis, y: Axis, last: str) -> Curve:
    buckets = list(_buckets(points))
    line = "M" + "L".join(f"{x.at(s)} {y.at(mean)}" for s, mean, _, _ in buckets)
    upper = [f"{x.at(s)} {y.at(high)}" for s, _, _, high in buckets]
    lower = [f"{x.at(s)} {y.at(low)}" for s, _, low, _ in reversed(buckets)]
    has_band = any(low < high for _, _, low, high in buckets)
    band = f"M{'L'.join(upper + lower)}Z" if has_band else ""
    step, mean, _, _ = buckets[-1]
    return Curve(name, colour, line, band, last, (x.at(step), y.at(mean)))


def _buckets(points: Sequence[Point]) -> list[tuple[float, float, float, float]]:
    """Return step, mean, least and most of neighbours, in at most so many buckets."""
    size = max(1, -(-len(points) // _BUCKETS))
    groups = [points[i : i + size] for i in range(0, len(points), size)]
    return [
        (
            group[-1][0] if number == len(groups) - 1 else sum(p[0] for p in group) / len(group),
            sum(p[1] for p in group) / len(group),
            min(p[1] for p in group),
            max(p[1] for p in group),
        )
        for number, group in enumerate(groups)
    ]


def _value_axis(values: Sequence[float], *, from_zero: bool) -> Axis:
    low, high = _span(values)
    start, end = HEIGHT - _BOTTOM, _TOP
    if not from_zero and low > 0 and high / low > _WIDE:
        return Axis(low / 1.15, high * 1.15, start, end, is_log=True)
    if from_zero or (0 <= low < 0.4 * high):
        return Axis(0.0, high * 1.06 or 1.0, start, end)
    margin = 0.08 * (high - low)
    return Axis(low - margin, high + margin, start, end)


def _span(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    if low == high:
        return (low, low + 1) if low == 0 else (low - abs(low) / 10, high + abs(high) / 10)
    return low, high


def _round_marks(low: float, high: float) -> list[float]:
    rough = (high - low) / 4
    power = 10 ** math.floor(math.log10(rough))
    step = power * min((1, 2, 5, 10), key=lambda m: abs(m * power - rough))
    first = math.ceil(low / step - 1e-9)
    marks = []
    while (value := first * step) <= high + 1e-9 * step:
        marks.append(0.0 if abs(value) < 1e-12 * step else value)
        first += 1
    assert all(a < b for a, b in pairwise(marks))
    return marks


def number(value: float) -> str:
    """Return a number as short as it stays readable: 12k, 0.041, 3e-05."""
    if value == 0:
        return "0"
    size = abs(value)
    if size >= 1e9 or size < 1e-3:
        mantissa, _, power = f"{value:.2e}".partition("e")
        return f"{float(mantissa):g}e{int(power)}"
    for limit, unit in ((1e6, "M"), (1e4, "k")):
        if size >= limit:
            return f"{value / (1e6 if unit == 'M' else 1e3):.3g}{unit}"
    return f"{value:.4g}" if size >= 1000 else f"{value:.3g}"


def duration(seconds: float) -> str:
    """Return a time in its two largest units: 2 h 05 min, 1 min 40 s, 8 s."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s" if whole % 60 else f"{whole // 60} min"
    hours, minutes = divmod(round(seconds / 60), 60)
    if hours >= 48:
        return f"{hours // 24} d {hours % 24:02d} h"
    return f"{hours} h {minutes:02d} min"
