"""How fast an avatar runs on this machine, and whether it stays so: one long stream, measured.

The protocol: a cold and several warm openings for the time to first frame, then one stream of
seeded speech-like sound, encoded to mp4 as in the main job. The first steps are not counted. A
*step* lasts from one emission of a block to the next, with input always available. At the end the
old stream and a young one are stepped in turn: a machine that slows down slows both, a stream that
grows dearer with age only the old one.
"""

import gc
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from itertools import cycle
from pathlib import Path
from typing import Any

import af_core
import attrs
import numpy as np
import torch
from af_audio import AudioInfo
from af_core.geometry import AUDIO_HZ, SAMPLES_PER_FRAME, VIDEO_FPS
from af_core.pipeline import Avatar
from numpy.typing import NDArray
from torch import Tensor

from af_runtime.benchmark_report import BenchReport, build_report
from af_runtime.errors import RequestError
from af_runtime.gallery import HOME_PRESET, shipped_portraits
from af_runtime.media import VideoSettings
from af_runtime.memory import resident_bytes
from af_runtime.portrait import load_portrait
from af_runtime.sink import Sink
from af_runtime.stage_times import StageTimes

WARMUP_STEPS = 20
WARM_OPENINGS = 5
AGE_PAIRS = 400
"""Steps of the old stream, and of a young one, that are compared at the end."""

SPEECH_S = 20
"""Seconds of sound that are made and then repeated."""

MIN_STEPS = 20
"""Fewer measured steps than this say nothing."""


@attrs.frozen(eq=False)
class Measured:
    """What one run saw; `build_report` makes numbers of it."""

    load_s: float
    ttff_cold_s: float
    ttff_warm_s: tuple[float, ...]
    step_s: NDArray[np.float64]
    """Seconds of every measured step, ``[n]``."""
    stage_s: Mapping[str, NDArray[np.float64]]
    """Seconds of every measured step by stage, ``[n]`` each; ``hand_over`` is the wait for the
    encoder."""
    encode_s: float
    """Seconds the encoder's thread worked during the measured steps."""
    wall_s: float
    """Seconds of all measured steps together, until the file was finished."""
    rss_bytes: NDArray[np.float64]
    """Resident memory after every measured step, ``[n]``; NaN where it cannot be read."""
    old_and_young_s: NDArray[np.float64]
    """Seconds of steps of the old stream and of a young one, made in turn, ``[pairs, 2]``."""


def bench(
    preset: str = HOME_PRESET,
    *,
    avatar: Avatar | None = None,
    overrides: Mapping[str, Any] | None = None,
    duration_s: float = 600.0,
    warmup_steps: int = WARMUP_STEPS,
    seed: int = 0,
    on_progress: Callable[[int, int, float], None] = lambda step, steps, factor: None,
) -> BenchReport:
    """Measure a preset, or a loaded avatar, on ``duration_s`` seconds of video.

    ``on_progress`` is told the step, the number of steps, and the real-time factor so far.
    """
    began = time.perf_counter()
    loaded = avatar or af_core.load(preset, dict(overrides or {}))
    load_s = time.perf_counter() - began
    steps = int(duration_s * VIDEO_FPS / loaded.info.frames_per_block) - warmup_steps
    if steps < MIN_STEPS:
        shortest = (warmup_steps + MIN_STEPS) * loaded.info.block_ms / 1e3
        raise RequestError(f"A benchmark needs at least {shortest:.1f} s of video.")
    portrait = bench_portrait(loaded)
    cold = _first_frame_s(loaded, portrait, seed)
    warm = tuple(_first_frame_s(loaded, portrait, seed) for _ in range(WARM_OPENINGS))
    with tempfile.TemporaryDirectory() as folder:
        stream = _LongStream(loaded, portrait, Path(folder) / "bench.mp4", seed, on_progress)
        measured = stream.run(warmup_steps, steps, (load_s, cold, warm))
    return build_report(measured, loaded.info, seed=seed, warmup_steps=warmup_steps)


def bench_portrait(avatar: Avatar) -> Tensor:
    """Return the first shipped portrait, or shades of grey where none is shipped."""
    width, height = avatar.info.width, avatar.info.height
    for path in shipped_portraits(avatar.info.preset).values():
        return load_portrait(path, width=width, height=height)
    shades = torch.linspace(40, 215, width).to(torch.uint8)
    return shades[None, :, None].repeat(height, 1, 3)


def speech_like(num_samples: int, seed: int) -> Iterator[NDArray[np.float32]]:
    """Yield endless chunks ``[num_samples]``: a buzzing voice in syllables, with pauses."""
    t = np.arange(max(1, SPEECH_S * AUDIO_HZ // num_samples) * num_samples) / AUDIO_HZ
    voice = sum(np.sin(2 * np.pi * 120 * k * t + k) / k for k in range(1, 12))
    syllables = np.clip(np.sin(2 * np.pi * 2.1 * t) * (np.sin(0.9 * t) > -0.6), 0, 1)
    hiss = np.random.default_rng(seed).standard_normal(len(t))
    speech = (0.12 * syllables * voice + 0.003 * hiss).astype(np.float32)
    return cycle(speech.reshape(-1, num_samples))


def _first_frame_s(avatar: Avatar, portrait: Tensor, seed: int) -> float:
    """Return the seconds from opening a stream to its first frame, with all input at hand."""
    speech = speech_like(avatar.info.frames_per_block * SAMPLES_PER_FRAME, seed)
    began = time.perf_counter()
    state = avatar.open(portrait, seed=seed)
    for samples in speech:
        frames, state = avatar.step(state, torch.from_numpy(samples))
        if frames.shape[1]:
            frames[0, 0].cpu()
            break
    return time.perf_counter() - began


class _LongStream:
    def __init__(
        self,
        avatar: Avatar,
        portrait: Tensor,
        path: Path,
        seed: int,
        on_progress: Callable[[int, int, float], None],
    ) -> None:
        self._times = StageTimes(avatar)
        self._avatar = self._times.avatar
        self._portrait, self._seed = portrait, seed
        self._state = self._avatar.open(portrait, seed=seed)
        info = AudioInfo("bench", "raw", "f32le", AUDIO_HZ, 1, None)
        size = (avatar.info.width, avatar.info.height)
        self._sink = Sink(path, info, *size, VideoSettings(fragmented=True))
        self._speech = speech_like(avatar.info.frames_per_block * SAMPLES_PER_FRAME, seed)
        self._on_progress = on_progress

    def run(
        self, warmup: int, steps: int, opening: tuple[float, float, tuple[float, ...]]
    ) -> Measured:
        with self._sink:
            for _ in range(warmup):
                self._step()
            gc.collect()
            gc.freeze()
            try:
                return self._measure(steps, opening)
            finally:
                gc.unfreeze()

    def _measure(self, steps: int, opening: tuple[float, float, tuple[float, ...]]) -> Measured:
        step_s, rss = np.zeros(steps), np.zeros(steps)
        stage_s = {name: np.zeros(steps) for name in (*self._avatar.runners, "hand_over")}
        busy, began = self._sink.writer.busy_s, time.perf_counter()
        last = began
        for i in range(steps):
            for name, seconds in self._step().items():
                stage_s[name][i] = seconds
            now = time.perf_counter()
            step_s[i], last = now - last, now
            rss[i] = resident_bytes()
            made_s = (i + 1) * self._avatar.info.block_ms / 1e3
            self._on_progress(i + 1, steps, made_s / (now - began))
        self._sink.writer.drain()
        wall_s = time.perf_counter() - began
        busy_s = self._sink.writer.busy_s - busy
        pairs = self._old_and_young(min(AGE_PAIRS, steps))
        return Measured(*opening, step_s, stage_s, busy_s, wall_s, rss, pairs)

    def _old_and_young(self, num_pairs: int) -> NDArray[np.float64]:
        """Step the stream and one that has just begun in turn; who goes first takes turns too."""
        states = [self._state, self._avatar.open(self._portrait, seed=self._seed)]
        seconds = np.zeros((num_pairs, 2))
        for i in range(-WARMUP_STEPS, num_pairs):
            samples = torch.from_numpy(next(self._speech))
            for who in (0, 1) if i % 2 else (1, 0):
                began = time.perf_counter()
                frames, states[who] = self._avatar.step(states[who], samples)
                frames[0].cpu()
                if i >= 0:
                    seconds[i, who] = time.perf_counter() - began
        return seconds

    def _step(self) -> dict[str, float]:
        """Make one block; return the seconds of every stage."""
        samples = next(self._speech)
        self._sink.add_audio(samples[None])
        frames, self._state = self._avatar.step(self._state, torch.from_numpy(samples))
        ready = frames[0].cpu().numpy()
        began = time.perf_counter()
        self._sink.add_frames(ready)
        seconds = {"hand_over": time.perf_counter() - began}
        return seconds | {name: span.seconds for name, span in self._times.taken().items()}
