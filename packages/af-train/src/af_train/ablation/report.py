"""The report of a study: our tables beside the paper's, verdicts, strips of frames, plots."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import msgspec

from af_train.ablation.paper import HIGHER_IS_BETTER, TABLES, Claim, PaperTable
from af_train.ablation.rows import Missing, Row, Study
from af_train.ablation.verdicts import (
    NOT_MEASURED,
    Decision,
    Estimate,
    Verdict,
    decide,
    estimate,
    tally,
)
from af_train.on_disk import write_json
from af_train.pages import table, write_page
from af_train.plots import curves, sheet

HEADS = {
    "fid": "FID",
    "fvd": "FVD",
    "csim": "CSIM Total",
    "csim_last": "CSIM Last",
    "sync_c": "Sync-C",
    "sync_d": "Sync-D",
    "delta_e": "dE2000 Total",
    "delta_e_last": "dE2000 Last",
    "adj_lpips": "Adj-LPIPS Total",
    "adj_lpips_last": "Adj-LPIPS Last",
    "latency": "s/frame",
}
_BETTER = {True: "(more is better)", False: "(less is better)"}
RULE = """A claim is an ordering in the paper's numbers: two rows that a table compares, one
column. The advantage of the row that is better in the paper is measured on the same clips with the
same noise; its 95 % interval comes from drawing seeds and clips with replacement, crossed.
**Reproduced**: the interval lies above 0. **Not reproduced**: it lies below 0 (reversed), or holds
0 and lies within 5 % of the larger value (no difference). **Undecided**: anything else, and
everything with fewer than six clips. With {seeds} of training the interval over seeds is rough;
over clips it is not."""


class Judged(msgspec.Struct, frozen=True):
    """One claim and what was found, as JSON has it."""

    table: str
    claim: str
    row: str
    column: str
    verdict: str
    advantage: float | None
    low: float | None
    high: float | None
    why: str
    """What the verdict rests on, where it could be more than one thing."""


@attrs.frozen(eq=False)
class Finding:
    """A claim, the row that was compared with the full model, and the decision."""

    claim: Claim
    row: str
    decision: Decision


def findings(study: Study, name: str) -> list[Finding]:
    """Decide every claim of a table, once for each row that stands for the paper's."""
    rows = [row for row in study.tables[name] if isinstance(row, Row)]
    found = []
    for claim in TABLES[name].claims():
        pairs = [
            (first, second)
            for first in rows
            for second in rows
            if (first.of, second.of) == (claim.first, claim.second)
        ]
        for first, second in pairs:
            told = f"{_short(first)} > {_short(second)}"
            a, b = first.columns.get(claim.column), second.columns.get(claim.column)
            decision = NOT_MEASURED
            if a is not None and b is not None:
                decision = decide(a, b, higher_is_better=HIGHER_IS_BETTER[claim.column])
            found.append(Finding(claim, told, decision))
    return found


def write_study(
    study: Study, directory: Path, command: str, took: str
) -> tuple[Path, dict[str, dict[Verdict, int]]]:
    """Write ``ablation-WORLD.json``, ``.md``, ``.html`` and pictures.

    Returns the HTML page and how many claims of each table had which verdict.
    """
    directory.mkdir(parents=True, exist_ok=True)
    judged = {name: findings(study, name) for name in study.tables}
    parts = [*_opening(study, command, took), *_verdicts(counted(judged))]
    for name in study.tables:
        parts += _section(study, name, judged[name], directory)
    write_json(directory / f"ablation-{study.world}.json", _numbers(study, judged))
    _, page = write_page(directory, f"ablation-{study.world}", "\n\n".join(parts) + "\n")
    return page, counted(judged)


def counted(judged: Mapping[str, Sequence[Finding]]) -> dict[str, dict[Verdict, int]]:
    """Count the verdicts of every table."""
    return {
        f"table {name[5:]}": tally([f.decision for f in found]) for name, found in judged.items()
    }


def _opening(study: Study, command: str, took: str) -> list[str]:
    seeds = "1 seed" if study.num_seeds == 1 else f"{study.num_seeds} seeds"
    measured = [
        (f"{HEADS[c].removesuffix(' Total')} {_BETTER[HIGHER_IS_BETTER[c]]}", text)
        for c, text in study.names.items()
    ]
    more = [(name, f"not in the paper: {text}") for name, text in study.more.items()]
    return [
        f"# Tables 3 to 6 in the {study.world} world",
        f"`{command}`: {seeds}, {study.num_clips} streams of {study.seconds:g} s. {took}",
        study.about,
        "## How claims are judged",
        RULE.format(seeds=seeds),
        "## What stands for the paper's columns",
        table(("column", "here"), [*measured, *more]),
    ]


def _verdicts(counts: Mapping[str, Mapping[Verdict, int]]) -> list[str]:
    rows = [(name, *map(str, count.values())) for name, count in counts.items()]
    head = ("claims of", "reproduced", "not reproduced", "undecided")
    return ["## Claims, counted", table(head, rows)]


def _section(study: Study, name: str, found: Sequence[Finding], directory: Path) -> list[str]:
    paper, rows = TABLES[name], study.tables[name]
    made = [row for row in rows if isinstance(row, Row)]
    columns = [c for c in paper.columns if any(c in row.columns for row in made)]
    parts = [f"## Table {name[5:]}: {paper.title}", "The paper's numbers:", _paper_table(paper)]
    parts += ["Ours, with 95 % intervals:", _our_table(rows, columns, study)]
    parts += [f"Not run: {row.label}. {row.why}" for row in rows if isinstance(row, Missing)]
    if made:
        strips = {"truth": study.truth} | {_short(row): row.frames for row in made}
        heads = [f"{s:g} s" for s in study.moments_s]
        sheet(directory / f"ablation-{study.world}-{name}.png", strips, heads)
        parts.append(f"![Frames of table {name[5:]}](ablation-{study.world}-{name}.png)")
        over = f"ablation-{study.world}-{name}-time.png"
        if _plot(study, made, directory / over):
            parts.append(f"![The same over time]({over})")
    parts += ["Orderings:", _claims_table(paper, found)]
    return parts


def _plot(study: Study, rows: Sequence[Row], path: Path) -> bool:
    names = {**study.more, **HEADS}
    panels = {
        names[track]: {_short(row): row.tracks[track] for row in rows}
        for track in rows[0].tracks
        if rows[0].tracks[track].times_s
    }
    if panels:
        curves(path, panels)
    return bool(panels)


def _paper_table(paper: PaperTable) -> str:
    head = ("", *(HEADS[c] for c in paper.columns))
    rows = [
        (paper.labels[name], *(f"{row[c]:g}" if c in row else "" for c in paper.columns))
        for name, row in paper.rows.items()
    ]
    return table(head, rows)


def _our_table(rows: Sequence[Row | Missing], columns: Sequence[str], study: Study) -> str:
    head = ("", "weights", *(HEADS[c] for c in columns), *study.more)
    lines = []
    for row in rows:
        if isinstance(row, Row):
            cells = [_cell(estimate(row.columns[c])) if c in row.columns else "" for c in columns]
            more = [_cell(estimate(row.more[m])) if m in row.more else "" for m in study.more]
            lines.append((row.label, row.trained, *cells, *more))
    return table(head, lines)


def _claims_table(paper: PaperTable, found: Sequence[Finding]) -> str:
    rows = []
    for finding in found:
        claim, decision = finding.claim, finding.decision
        gain = decision.advantage
        numbers = paper.rows[claim.first][claim.column], paper.rows[claim.second][claim.column]
        rows.append(
            (
                finding.row,
                HEADS[claim.column],
                "{:g} / {:g}".format(*numbers),
                "" if gain is None else _cell(gain),
                f"{decision.verdict}: {decision.why}" if decision.why else decision.verdict,
            )
        )
    return table(("better > worse", "in", "paper", "advantage here", "verdict"), rows)


def _cell(e: Estimate) -> str:
    return f"{e.value:.3g} ({e.low:.3g} .. {e.high:.3g})"


def _short(row: Row) -> str:
    kept = "changed when streaming" in row.trained
    return f"{row.label}, inference only" if kept else row.label


def _numbers(study: Study, judged: Mapping[str, Sequence[Finding]]) -> dict[str, Any]:
    """Return everything as plain values for JSON."""
    tables = {
        name: [_row(row) for row in rows if isinstance(row, Row)]
        for name, rows in study.tables.items()
    }
    claims = [_judged(f) for found in judged.values() for f in found]
    about = {"world": study.world, "num_seeds": study.num_seeds, "num_clips": study.num_clips}
    return {
        "format": "af-ablation/1",
        **about,
        "seconds": study.seconds,
        "tables": tables,
        "claims": claims,
    }


def _row(row: Row) -> dict[str, Any]:
    spread = {name: attrs.asdict(estimate(s)) for name, s in {**row.columns, **row.more}.items()}
    return {"of": row.of, "label": row.label, "weights": row.trained, "numbers": spread}


def _judged(finding: Finding) -> Judged:
    claim, found = finding.claim, finding.decision
    gain = found.advantage
    numbers = (None, None, None) if gain is None else (gain.value, gain.low, gain.high)
    told = f"{claim.first} better than {claim.second}"
    row = finding.row
    return Judged(claim.table, told, row, claim.column, found.verdict, *numbers, why=found.why)
