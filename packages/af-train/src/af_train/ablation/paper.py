"""Tables 3 to 6 of the AvatarForcing paper (arXiv 2603.14331): numbers, and the orderings in them.

An ordering is taken from the numbers alone: two rows that the table compares, one column, and the
row that is better in it. Text is not weighed.
"""

from collections.abc import Mapping
from itertools import combinations

import attrs

HIGHER_IS_BETTER = {
    "fid": False,
    "fvd": False,
    "csim": True,
    "csim_last": True,
    "sync_c": True,
    "sync_d": False,
    "delta_e": False,
    "delta_e_last": False,
    "adj_lpips": False,
    "adj_lpips_last": False,
    "latency": False,
}
"""Columns; Total and Last are columns of their own. Latency is in seconds a frame."""
OURS = "ours"


@attrs.frozen
class Claim:
    """The paper finds ``first`` better than ``second`` in a column."""

    table: str
    first: str
    second: str
    column: str


@attrs.frozen
class PaperTable:
    """Rows by name, their numbers by column."""

    name: str
    title: str
    rows: Mapping[str, Mapping[str, float]]
    labels: Mapping[str, str]

    @property
    def columns(self) -> list[str]:
        """Return the columns that any row has."""
        return [c for c in HIGHER_IS_BETTER if any(c in row for row in self.rows.values())]

    def claims(self) -> list[Claim]:
        """Return every ordering: against the full model, or in table 3 along its two questions."""
        found = []
        for one, other in self._pairs():
            for column, higher in HIGHER_IS_BETTER.items():
                a, b = self.rows[one].get(column), self.rows[other].get(column)
                if a is None or b is None or a == b:
                    continue
                better = (one, other) if (a > b) == higher else (other, one)
                found.append(Claim(self.name, *better, column))
        return found

    def _pairs(self) -> list[tuple[str, str]]:
        if self.name != "table3":
            return [(OURS, row) for row in self.rows if row != OURS]
        cells = [(slots, passes) for slots in _GRID_L for passes in _GRID_N]
        return [
            (cell_name(*one), cell_name(*other))
            for one, other in combinations(cells, 2)
            if one[0] * one[1] == other[0] * other[1]  # the same work, otherwise spent
            or (one[1] == other[1] == 1 and other[0] == 2 * one[0])  # a longer window, one pass
        ]


_GRID_L, _GRID_N = (1, 2, 4, 8), (1, 2, 4, 8)
_GRID = """
0.07/0.10/31.4    0.73/3.23/19.5    0.90/1.06/34.14   0.91/0.84/59.67
0.52/8.12/18.66   0.83/2.25/33.19   0.80/1.94/69.45   0.75/0.72/119.32
0.32/8.12/28.19   0.87/2.23/78.94   0.90/0.75/166.42  0.82/0.83/284.79
0.74/2.24/38.2    0.91/1.10/153.07  0.81/1.20/321.98  0.84/0.87/545.62
"""
"""CSIM / Adj-LPIPS x 100 / latency in ms; a row for each N, a column for each L."""


def cell_name(num_slots: int, num_passes: int) -> str:
    """Return the row of B_{L,N} in table 3."""
    return f"L{num_slots}N{num_passes}"


def _grid() -> dict[str, dict[str, float]]:
    rows = {}
    for passes, line in zip(_GRID_N, _GRID.split("\n")[1:-1], strict=True):
        for slots, cell in zip(_GRID_L, line.split(), strict=True):
            csim, flicker, milliseconds = map(float, cell.split("/"))
            rows[cell_name(slots, passes)] = {
                "csim": csim,
                "adj_lpips": flicker / 100,
                "latency": milliseconds / 1000,
            }
    return dict(sorted(rows.items()))


def _row(text: str, *columns: str) -> dict[str, float]:
    """Return numbers by column; ``a/b`` is Total and Last."""
    row: dict[str, float] = {}
    for column, cell in zip(columns, text.split(), strict=True):
        total, _, last = cell.partition("/")
        row[column] = float(total)
        if last:
            row[f"{column}_last"] = float(last)
    return row


_STABILITY = ("latency", "csim", "delta_e", "adj_lpips")
_QUALITY = ("fid", "fvd", "csim", "sync_c", "sync_d", "delta_e", "adj_lpips")
_ONE_STEP = ("fid", "fvd", "csim", "sync_c", "sync_d", "latency", "delta_e", "adj_lpips")

TABLES = {
    "table3": PaperTable(
        "table3",
        "Window length L and denoising steps N",
        _grid(),
        {name: f"L = {name[1]}, N = {name[3]}" for name in _grid()},
    ),
    "table4": PaperTable(
        "table4",
        "Distillation backbone, and the two anchors",
        {
            "teacher": _row("16 0.88/0.84 18.51/24.18 0.18/0.28", *_STABILITY),
            "student": _row("4.8 0.86/0.84 17.77/25.86 0.09/0.15", *_STABILITY),
            "no_style": _row("0.034 0.72/0.63 9.63/12.68 0.0196/0.0209", *_STABILITY),
            "no_temporal": _row("0.031 0.86/0.63 10.70/14.29 0.0109/0.0209", *_STABILITY),
            OURS: _row("0.034 0.90/0.86 8.71/11.39 0.0106/0.0189", *_STABILITY),
        },
        {
            "teacher": "teacher",
            "student": "multi-step student",
            "no_style": "without style anchor",
            "no_temporal": "without temporal anchor",
            OURS: "full model",
        },
    ),
    "table5": PaperTable(
        "table5",
        "Anchor-audio zeroing and RoPE re-indexing",
        {
            "no_zeroing": _row(
                "58.53 796.35 0.89/0.84 3.43 11.23 8.91/13.87 0.0110/0.0191", *_QUALITY
            ),
            "no_reindex": _row(
                "72.43 1382.63 0.67/0.49 2.23 19.23 13.56/33.86 0.018/0.032", *_QUALITY
            ),
            OURS: _row("56.22 737.92 0.90/0.86 5.64 9.26 8.71/11.39 0.0106/0.0189", *_QUALITY),
        },
        {
            "no_zeroing": "without anchor-audio zeroing",
            "no_reindex": "without RoPE re-indexing",
            OURS: "full model",
        },
    ),
    "table6": PaperTable(
        "table6",
        "One-step causal baselines",
        {
            "self_forcing": _row(
                "88.52 1127.43 0.40/0.07 1.34 19.53 0.031 27.91/40.63 0.05/0.10", *_ONE_STEP
            ),
            "causal_ode": _row(
                "102.63 1382.63 0.58/0.32 0.12 24.21 0.029 16.73/35.92 0.08/0.12", *_ONE_STEP
            ),
            OURS: _row(
                "56.22 737.92 0.90/0.86 5.64 9.26 0.034 8.71/11.39 0.0106/0.0189", *_ONE_STEP
            ),
        },
        {
            "self_forcing": "Self-Forcing, 1 step",
            "causal_ode": "Causal ODE, 1 step",
            OURS: "full model",
        },
    ),
}
