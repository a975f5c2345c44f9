"""Runs simulated viewers side by side, and makes one report of what they saw: ``af-viewers/1``."""

import datetime
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec
import numpy as np
from af_core.geometry import AUDIO_HZ, TEMPORAL_STRIDE
from numpy.typing import ArrayLike, NDArray

from af_runtime.benchmark import speech_like
from af_runtime.benchmark_report import git_commit, host_facts
from af_runtime.errors import RequestError
from af_runtime.messages.from_server import Format
from af_runtime.viewing.playing import ages, play, skews
from af_runtime.viewing.viewer import CHUNK_S, Seen, Where, watch

SCHEMA = "af-viewers/1"
BUFFER_S = 0.08
"""A viewer shows its first frame this long after it came: two frames in hand."""

MIN_DURATION_S = 2.0

Spread = dict[str, float]
"""n, p50, p95, p99 and max."""


class ViewersReport(msgspec.Struct, frozen=True, kw_only=True):
    """What all viewers saw together; docs/operations.md tells what each number means."""

    schema: str = SCHEMA
    git: str
    utc: str
    host: dict[str, Any]
    server: str
    preset: str
    run: dict[str, float]
    ttff_ms: Spread
    e2e_ms: Spread
    e2e_by_the_paper_ms: Spread
    delay_ms: dict[str, float]
    interval_ms: Spread
    skew_ms: Spread
    underruns: int
    stall_ms: float
    deadline_misses: int
    frames: int
    repeats: int
    draw_ms: Spread
    wait_ms: Spread
    stage_ms: dict[str, Spread]
    rtf_p95: float
    warnings: dict[str, int]
    errors: list[str]
    viewers: list[dict[str, Any]]


def view(
    where: Where,
    *,
    viewers: int = 1,
    duration_s: float = 30.0,
    seed: int = 0,
    on_frame: Callable[[], None] = lambda: None,
) -> ViewersReport:
    """Let viewers watch side by side, each with a session and a voice of its own.

    Raises `ServiceError` if the worker cannot be reached, or has no room for all of them.
    """
    if duration_s < MIN_DURATION_S:
        raise RequestError(f"Viewers need at least {MIN_DURATION_S:.0f} s to see anything.")
    chunk = round(CHUNK_S * AUDIO_HZ)

    def one(number: int) -> Seen:
        speech = speech_like(chunk, seed + number)
        return watch(where, speech, duration_s, seed=seed + number, on_frame=on_frame)

    with ThreadPoolExecutor(viewers) as pool:
        seen = list(pool.map(one, range(viewers)))
    return report_of(seen, duration_s)


def report_of(seen: Sequence[Seen], duration_s: float) -> ViewersReport:
    """Make the report of what viewers noted."""
    each = [_viewer(one) for one in seen]
    first, delay = seen[0].format, _delay(seen[0].format)
    e2e = np.concatenate([one["e2e_ms"] for one in each])
    blocks = [block for one in seen for block in one.blocks if block.num_frames]
    stages = sorted({name for block in blocks for name in block.stage_s})
    block_s = first.block_samples / first.sample_rate
    return ViewersReport(
        git=git_commit(),
        utc=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        host=host_facts(),
        server=seen[0].server,
        preset=first.preset,
        run={
            "viewers": len(seen),
            "duration_s": duration_s,
            "chunk_ms": 1e3 * CHUNK_S,
            "buffer_ms": 1e3 * BUFFER_S,
        },
        ttff_ms=spread([one["ttff_ms"] for one in each if one["ttff_ms"] is not None]),
        e2e_ms=spread(e2e),
        e2e_by_the_paper_ms=spread(e2e - delay["lookahead"] + delay["lookahead_by_the_paper"]),
        delay_ms=delay | {"added_p50": _p50(e2e) - delay["algorithmic"] if len(e2e) else 0.0},
        interval_ms=spread(np.concatenate([np.diff(one.arrival_s) * 1e3 for one in seen])),
        skew_ms=spread(np.concatenate([one["skew_ms"] for one in each])),
        underruns=sum(one["underruns"] for one in each),
        stall_ms=round(sum(one["stall_ms"] for one in each), 3),
        deadline_misses=sum(one["deadline_misses"] for one in each),
        frames=sum(len(one.pts) for one in seen),
        repeats=sum(one.is_fresh.count(False) for one in seen),
        draw_ms=spread([1e3 * block.draw_s for block in blocks]),
        wait_ms=spread([1e3 * block.wait_s for block in blocks]),
        stage_ms={s: spread([1e3 * b.stage_s.get(s, 0.0) for b in blocks]) for s in stages},
        rtf_p95=round(float(np.percentile([b.draw_s for b in blocks], 95)) / block_s, 4)
        if blocks
        else 0.0,
        warnings=dict(sum((one.warnings for one in seen), Counter[str]())),
        errors=[one.error for one in seen if one.error],
        viewers=[_without_arrays(one) for one in each],
    )


def spread(values: ArrayLike) -> Spread:
    """Return n, p50, p95, p99 and max of some values; zeros if there are none."""
    numbers = np.asarray(values, np.float64)
    found = np.percentile(numbers, (50, 95, 99, 100)) if numbers.size else np.zeros(4)
    named = zip(("p50", "p95", "p99", "max"), found, strict=True)
    return {"n": float(numbers.size)} | {name: round(float(value), 3) for name, value in named}


def _viewer(seen: Seen) -> dict[str, Any]:
    """Return what one viewer saw, with its arrays."""
    arrivals = np.array(seen.arrival_s)
    samples, pts = np.array(seen.num_samples, np.int64), np.array(seen.pts, np.int64)
    fresh = np.array(seen.is_fresh, bool)
    playback = play(arrivals, BUFFER_S)
    pushed_s, pushed = np.array(seen.pushed_s), np.array(seen.pushed, np.int64)
    return {
        "ttff_ms": round(1e3 * float(arrivals[0] - seen.opened_s), 3) if len(arrivals) else None,
        "e2e_ms": 1e3 * ages(arrivals, samples, pushed_s, pushed),
        "skew_ms": 1e3 * skews(pts, fresh, samples > 0),
        "underruns": playback.underruns,
        "stall_ms": round(1e3 * playback.stall_s, 3),
        "deadline_misses": playback.misses,
        "frames": len(pts),
        "gaps": int((np.diff(pts) != AUDIO_HZ // seen.format.fps).sum()),
        "error": seen.error,
    }


def _without_arrays(viewer: dict[str, Any]) -> dict[str, Any]:
    return {k: spread(v) if isinstance(v, np.ndarray) else v for k, v in viewer.items()}


def _delay(format: Format) -> dict[str, float]:
    """Return the delay that no machine can avoid, by both definitions of look-ahead.

    The paper counts latent frames as if they were video frames: a quarter of the time.
    """
    lookahead = 1e3 * format.lookahead_samples / format.sample_rate
    block = 1e3 * format.block_samples / format.sample_rate
    by_the_paper = lookahead / TEMPORAL_STRIDE
    return {
        "block": block,
        "lookahead": lookahead,
        "lookahead_by_the_paper": by_the_paper,
        "algorithmic": block + lookahead,
    }


def _p50(values: NDArray[np.float64]) -> float:
    return round(float(np.median(values)), 3)
