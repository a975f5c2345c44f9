"""The numbers of a benchmark, in the schema ``af-bench/1``."""

import datetime
import os
import platform
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import torch
from af_core.geometry import VIDEO_FPS
from af_core.pipeline import AvatarInfo
from numpy.typing import NDArray
from scipy import stats

if TYPE_CHECKING:
    from af_runtime.benchmark import Measured

SCHEMA = "af-bench/1"
TREND_BINS = 150
"""Steps are joined into this many medians before a trend is sought: a hiccup is one point."""

RESAMPLES = 500
BLOCKS = 10
"""Blocks of neighbouring spans that a bootstrap sample is made of."""


class Trend(msgspec.Struct, frozen=True):
    """A Theil-Sen slope and the bootstrap interval that holds it with 95 % confidence."""

    slope: float
    low: float
    high: float

    @property
    def is_flat(self) -> bool:
        """Whether the interval covers 0."""
        return self.low <= 0 <= self.high


class BenchReport(msgspec.Struct, frozen=True, kw_only=True):
    """Everything measured; `msgspec.json.encode` of it is the JSON."""

    schema: str = SCHEMA
    git: str
    utc: str
    host: dict[str, Any]
    config: dict[str, Any]
    run: dict[str, int]
    realtime_factor: float
    """Seconds of video per second, audio encoding, model, decoding and H.264 + AAC included."""
    step_ms: dict[str, float]
    frame_ms_p50: float
    frame_ms_p95: float
    fps: float
    """Frames per second at the median step."""
    stage_ms_p50: dict[str, float]
    """Per step. ``encode`` runs on a thread of its own beside the others."""
    load_ms: float
    ttff_ms: dict[str, float]
    e2e_ms: dict[str, float]
    long: dict[str, Any]
    raw_step_ms: list[float]


def build_report(
    measured: "Measured", info: AvatarInfo, *, seed: int, warmup_steps: int
) -> BenchReport:
    """Make the report of one run."""
    step_ms = 1e3 * measured.step_s
    frames = info.frames_per_block
    return BenchReport(
        git=git_commit(),
        utc=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        host=host_facts(),
        config=_config(info, seed),
        run={"warmup_steps": warmup_steps, "steps": len(step_ms), "frames_per_step": frames},
        realtime_factor=_round(len(step_ms) * frames / VIDEO_FPS / measured.wall_s),
        step_ms=_spread(step_ms),
        frame_ms_p50=_round(np.percentile(step_ms, 50) / frames),
        frame_ms_p95=_round(np.percentile(step_ms, 95) / frames),
        fps=_round(1e3 * frames / np.median(step_ms)),
        stage_ms_p50=_stages(measured),
        load_ms=_round(1e3 * measured.load_s),
        ttff_ms={
            "cold": _round(1e3 * measured.ttff_cold_s),
            "warm": _round(1e3 * np.median(measured.ttff_warm_s)),
        },
        e2e_ms=_delay(info, step_ms),
        long=_long(measured, info.block_ms),
        raw_step_ms=[_round(value) for value in step_ms],
    )


def trend(values: NDArray[np.float64], seed: int = 0) -> Trend:
    """Return the slope of ``values`` ``[n]`` per step, with its interval.

    The values are joined into medians of equal spans first. What else a machine does lasts for many
    spans, so neighbours are alike; the spread of the slope is that of whole blocks of residuals
    drawn anew, a tenth of the run each, wherever they begin (moving-block bootstrap), and the
    interval Student's with as many degrees of freedom as there are blocks. From spans drawn one by
    one it would be far too narrow.
    """
    bins = np.array_split(np.arange(len(values)), min(TREND_BINS, len(values)))
    x = np.array([span.mean() for span in bins])
    y = np.array([np.median(values[span]) for span in bins])
    slope = float(_slope(x, y))
    line = np.median(y - slope * x) + slope * x
    size, rng = max(1, len(bins) // BLOCKS), np.random.default_rng(seed)
    starts = rng.integers(len(bins), size=(RESAMPLES, -(-len(bins) // size), 1))
    places = (starts + np.arange(size)) % len(bins)
    drawn = line + (y - line)[places.reshape(RESAMPLES, -1)[:, : len(bins)]]
    free = BLOCKS - 2  # two are spent on the line
    reach = stats.t.ppf(0.975, free) * np.sqrt(BLOCKS / free) * _slope(x, drawn).std()
    return Trend(slope, slope - float(reach), slope + float(reach))


def _slope(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return Theil and Sen's slope of ``y [..., n]``: the median of those of all pairs."""
    first, second = np.triu_indices(len(x), 1)
    return np.median((y[..., second] - y[..., first]) / (x[second] - x[first]), axis=-1)


def _long(measured: "Measured", block_ms: float) -> dict[str, Any]:
    """Return whether time and memory stay the same over the stream."""
    time_trend = trend(1e6 * measured.step_s)
    step_ms = 1e3 * measured.step_s
    tenth = max(1, len(step_ms) // 10)
    first, last = np.percentile(step_ms[:tenth], 99), np.percentile(step_ms[-tenth:], 99)
    return {
        "steps": len(step_ms),
        "slope_us_per_step": _round(time_trend.slope, 5),
        "slope_ci95": [_round(time_trend.low, 5), _round(time_trend.high, 5)],
        "slope_is_flat": time_trend.is_flat,
        "p99_last_over_first_tenth": _round(last / first),
        "old_over_young": _age(measured.old_and_young_s),
    } | _memory(measured, block_ms)


def _age(seconds: NDArray[np.float64]) -> dict[str, Any]:
    """Return how many times as long a step takes the old stream: the median of pairs.

    Both streams share the machine as it is at that moment, so its moods cancel, unlike in a trend.
    """
    old, young = seconds.T
    found = stats.bootstrap(
        (old / young,), np.median, n_resamples=2000, method="percentile", rng=0
    ).confidence_interval
    return {
        "pairs": len(old),
        "ratio": _round(np.median(old / young), 4),
        "ci95": [_round(found.low, 4), _round(found.high, 4)],
    }


def _memory(measured: "Measured", block_ms: float) -> dict[str, Any]:
    """Return how resident memory grew per hour of video; nothing where the system does not tell."""
    rss = measured.rss_bytes
    if np.isnan(rss).any():
        return {}
    growth = trend(rss / 2**20 * (3_600_000 / block_ms))
    half = len(rss) // 2
    return {
        "rss_growth_MB_by_half": [
            _round((part[-1] - part[0]) / 2**20) for part in (rss[:half], rss[half:])
        ],
        "rss_first": int(rss[0]),
        "rss_last": int(rss[-1]),
        "rss_slope_MBph": _round(growth.slope),
        "rss_slope_MBph_ci95": [_round(growth.low), _round(growth.high)],
    }


def _stages(measured: "Measured") -> dict[str, float]:
    """Return the median milliseconds of each stage; ``gap`` is what no stage accounts for."""
    medians = {name: 1e3 * float(np.median(s)) for name, s in measured.stage_s.items()}
    gap = measured.step_s - sum(measured.stage_s.values())
    medians["gap"] = 1e3 * float(np.median(gap))
    medians["encode"] = 1e3 * measured.encode_s / len(measured.step_s)
    return {name: _round(value) for name, value in medians.items()}


def _delay(info: AvatarInfo, step_ms: NDArray[np.float64]) -> dict[str, float]:
    return {
        "lookahead_ms": info.lookahead_ms,
        "block_ms": info.block_ms,
        "compute_p50": _round(np.percentile(step_ms, 50)),
        "live_p50": _round(info.delay_ms + np.percentile(step_ms, 50)),
        "live_p99": _round(info.delay_ms + np.percentile(step_ms, 99)),
        "deadline_miss": int((step_ms > info.block_ms).sum()),
    }


def _config(info: AvatarInfo, seed: int) -> dict[str, Any]:
    return {
        "impl": "ours",
        "preset": info.preset,
        "hw": [info.height, info.width],
        "num_parameters": info.num_parameters,
        "seed": seed,
        "encode": "libx264 veryfast crf 18 + aac",
    }


def _spread(values: NDArray[np.float64]) -> dict[str, float]:
    p50, p95, p99 = np.percentile(values, (50, 95, 99))
    numbers = {"min": values.min(), "mean": values.mean(), "p50": p50, "p95": p95, "p99": p99}
    return {"n": len(values)} | {k: _round(v) for k, v in (numbers | {"max": values.max()}).items()}


def host_facts() -> dict[str, Any]:
    """Return what of this machine matters to a measurement."""
    return {
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "os": platform.platform(),
        "omp_wait_policy": os.environ.get("OMP_WAIT_POLICY", ""),
    }


def cpu_name() -> str:
    """Return what the processor is called."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def git_commit() -> str:
    """Return the commit of the source tree; empty when installed from a wheel."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return answer.stdout.strip()


def _round(value: Any, digits: int = 3) -> float:
    return round(float(value), digits)
