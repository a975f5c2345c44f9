"""What a run over a benchmark amounts to: JSON, and a page with plots and strips of frames."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np

from af_train.benchmark.running import BenchmarkRun, Run
from af_train.benchmark.scoring import WINDOW_S, Record
from af_train.benchmark.specs import ClipSpec
from af_train.metrics.bootstrap import intervals
from af_train.metrics.report import Score
from af_train.moments import MOMENTS_S
from af_train.on_disk import write_json
from af_train.pages import table, write_page
from af_train.plots import Curve, curves, distributions

_RESAMPLES = 1000
MEANINGS = {
    "lip_corr": "r of the mouth's opening with the truth's",
    "lip_amplitude": "size of its movement, of the true",
    "av_offset_frames": "mouth behind the sound, frames (median)",
    "pause_open": "mean opening in pauses",
    "csim": "identity against the portrait, cosine: Total",
    "csim_last": "the same: Last (the last sixth)",
    "delta_e": "colour against the first second, CIEDE2000: Total",
    "delta_e_last": "the same: Last",
    "adj_lpips": "perceptual change between neighbouring frames: Total",
    "adj_lpips_last": "the same: Last",
    "border_jump": "change across block borders, over inside",
    "sharpness": "energy of the Laplacian, of the true",
    "blinks_per_min": "blinks a minute",
    "head_motion": "size of head motion, of the true",
    "realtime_factor": "seconds of video made in a second",
    "cpu_s_per_frame": "processor seconds a frame",
}
_SHOWN = ("lip_corr", "csim", "delta_e", "adj_lpips", "sharpness", "border_jump", "lip_amplitude")
_BRIEF = ("lip_corr", "csim", "csim_last", "delta_e_last", "adj_lpips")
_TRACKS = {
    "lip_corr": "lips, r with truth",
    "csim": "identity, cosine",
    "delta_e": "colour drift, CIEDE2000",
    "adj_lpips": "change between frames",
}


class Group(msgspec.Struct, frozen=True):
    """Clips that have something in common."""

    name: str
    num_clips: int
    scores: dict[str, Score]


class Summary(msgspec.Struct, frozen=True):
    """Everything a run has to say, as it is written to ``report.json``."""

    format: str
    run: Run
    num_clips: int
    num_wanted: int
    """Clips of the list; as many as ``num_clips`` when the run is complete."""
    minutes: float
    scores: dict[str, Score]
    groups: list[Group]
    windows: dict[str, list[float]]
    """Means over the clips that last so long, by windows of ten seconds."""
    clips: list[Record]


def summarise(run: Run, specs: Sequence[ClipSpec], records: Sequence[Record]) -> Summary:
    """Return means with 95 % bootstrap intervals over clips, whole and by kind of clip."""
    by_number = {spec.number: spec for spec in specs}
    groups = [
        Group(f"{what} {value}", len(part), scores_of(part))
        for what, kind in _kinds().items()
        for value, part in _parts(records, lambda r, k=kind: k(by_number[r.number])).items()
    ]
    return Summary(
        "af-benchmark-report/1",
        run,
        len(records),
        len(specs),
        round(sum(r.duration_s for r in records) / 60, 2),
        scores_of(records),
        groups,
        {name: [c.values[i] for i in range(len(c.values))] for name, c in tracks(records).items()},
        list(records),
    )


def scores_of(records: Sequence[Record]) -> dict[str, Score]:
    """Return the mean of every number over the clips that have it; of lags, the median."""
    found = {}
    for name in MEANINGS:
        values = [r.scores[name] for r in records if name in r.scores]
        if values:
            middle = np.median if name == "av_offset_frames" else np.mean
            bounds = intervals(
                lambda drawn, m=middle: {"of": float(m(drawn))}, values, _RESAMPLES
            ).get("of", (None, None))
            missing = len(records) - len(values)
            found[name] = Score("toon", float(middle(values)), *bounds, len(values), missing)
    return found


def tracks(records: Sequence[Record]) -> dict[str, Curve]:
    """Return each number over windows of time: means and 95 % intervals over clips."""
    longest = max((len(r.windows) for r in records), default=0)
    found = {}
    for name in _TRACKS:
        at = [
            [getattr(r.windows[i], name) for r in records if len(r.windows) > i]
            for i in range(longest)
        ]
        spread = [intervals(lambda v: {"of": float(np.mean(v))}, values, 300) for values in at]
        means = [float(np.mean(values)) for values in at]
        ends = [s.get("of", (m, m)) for s, m in zip(spread, means, strict=True)]
        times = [(i + 0.5) * WINDOW_S for i in range(longest)]
        found[name] = Curve(times, means, [low for low, _ in ends], [high for _, high in ends])
    return found


def write_report(job: BenchmarkRun, command: str) -> tuple[Summary, Path]:
    """Write ``report.json``, ``report.md`` and ``report.html``; returns the page."""
    records = job.records()
    summary = summarise(job.run, job.specs, records)
    write_json(job.directory / "report.json", summary)
    over_time = {_TRACKS[name]: {name: curve} for name, curve in tracks(records).items()}
    if any(summary.windows.values()):
        curves(job.directory / "over_time.png", over_time)
    shown = {n: [r.scores[n] for r in records if n in r.scores] for n in _SHOWN}
    distributions(job.directory / "distributions.png", {n: v for n, v in shown.items() if v})
    strips = sorted(path.name for path in job.directory.glob("strip-*.png"))
    _, page = write_page(job.directory, "report", _markdown(summary, command, strips))
    return summary, page


def _markdown(summary: Summary, command: str, strips: Sequence[str]) -> str:
    run = summary.run
    settings = " ".join(f"`{s}`" for s in run.settings) or "none"
    partial = (
        ""
        if summary.num_clips == summary.num_wanted
        else (f" **Not complete: {summary.num_wanted - summary.num_clips} clips are missing.**")
    )
    cut = "" if run.max_seconds is None else f", the first {run.max_seconds} s of each"
    names = [n for n in MEANINGS if n in summary.scores]
    brief = [n for n in _BRIEF if n in names]
    parts = [
        f"# {run.preset} on the long-form benchmark",
        f"{summary.num_clips} clips, {summary.minutes:.3g} minutes{cut}. Settings: {settings}."
        f"{partial}",
        f"```\n{command}\n```",
        "Means over clips; 95 % bootstrap intervals over clips. Numbers are read from frames by "
        "networks of the toon world: they compare with each other, not with published ones.",
        table(
            ("measure", "value", "95 % interval", "clips"),
            [(MEANINGS[n], *_cells(summary.scores[n])) for n in names],
        ),
        *_over_time(summary),
        "## Over clips",
        "![Distributions over clips, medians marked](distributions.png)",
        "## By kind of clip",
        table(
            ("clips", "n", *brief),
            [
                (g.name, str(g.num_clips), *(f"{g.scores[n].value:.3g}" for n in brief))
                for g in summary.groups
            ],
        ),
    ]
    if strips:
        moments = ", ".join(map(str, MOMENTS_S))
        parts += ["## Frames", f"Truth above, made below, at {moments} s as far as clips go."]
        parts += [f"![{name}]({name})" for name in strips]
    return "\n\n".join(parts) + "\n"


def _over_time(summary: Summary) -> list[str]:
    """Show windows of time, if any clip was long enough to have one."""
    if not any(summary.windows.values()):
        return []
    return [
        "## Over time",
        f"Windows of {WINDOW_S} s; late ones have fewer clips.",
        "![Quality over windows of time](over_time.png)",
    ]


def _cells(score: Score) -> tuple[str, str, str]:
    bounds = "" if score.low is None else f"{score.low:.4g} .. {score.high:.4g}"
    return f"{score.value:.4g}", bounds, str(score.num_clips)


def _kinds() -> Mapping[str, Callable[[ClipSpec], str]]:
    return {
        "noise:": lambda s: s.noise,
        "speech over noise, dB:": lambda s: "no noise" if s.snr_db is None else f"{s.snr_db:g}",
        "pauses:": lambda s: s.pauses,
        "length, s:": lambda s: "under 80" if s.duration_s < 80 else "80 and more",
    }


def _parts(records: Sequence[Record], key: Callable[[Record], str]) -> dict[str, list[Record]]:
    found: dict[str, list[Record]] = {}
    for record in records:
        found.setdefault(key(record), []).append(record)
    return dict(sorted(found.items(), key=lambda part: _place(part[0])))


def _place(value: str) -> tuple[float, str]:
    """Sort words by letters, after numbers by size."""
    try:
        return float(value), value
    except ValueError:
        return math.inf, value
