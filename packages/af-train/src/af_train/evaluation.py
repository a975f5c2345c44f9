"""Evaluate a preset and show what was seen: scores, progress, a sheet of frames."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
import torch
from af_core.errors import ConfigError
from af_core.graph import open_pipeline, parse_overrides
from af_core.graph.checked import Pipeline
from af_core.graph.wiring import weights_file
from af_core.pipeline import build
from af_core.weights.files import read_tensors
from PIL import Image
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from af_train.backfill import weights_hash
from af_train.metrics.readers import load_readers
from af_train.metrics.toon_suite import evaluate_toon
from af_train.recipes.lamp import stream_scores
from af_train.worlds.lamp import MOOD_STD
from af_train.worlds.toon import Clip

ABOUT = ("preset", "settings", "denoiser")
"""Keys beside the scores: what was measured, with a hash of the denoiser's weights."""
LAMP_WANTED = {"offset": 0.0, "identity": 0.0, "sync": 1.0, "mood": MOOD_STD}
"""What a perfect student of the lamp world scores."""
_SHEET_CLIPS, _SHEET_FRAMES = 6, 12


def evaluate_preset(
    preset: str,
    settings: Sequence[str],
    *,
    weights: Path | None = None,
    num_clips: int,
    duration_s: int,
    threads: int,
    strip: Path | None,
    console: Console,
) -> dict[str, Any]:
    """Return the scores of a preset, with a hash of its weights (``ABOUT``).

    ``weights`` take the place of its denoiser's; ``strip`` gets truth over generated frames.
    """
    torch.set_num_threads(threads)
    own = () if weights is None else (f"denoiser.weights={weights.resolve()}",)
    settings = [*settings, *own]
    pipeline = open_pipeline(preset, parse_overrides(settings))
    avatar, denoiser = build(pipeline), denoiser_of(pipeline)
    rows: list[Tensor] = []

    def keep(index: int, clip: Clip, frames: Tensor) -> None:
        if strip is not None and index < _SHEET_CLIPS:
            rows.extend(_rows(clip, frames))

    with Progress(console=console) as bar:
        task = bar.add_task("clips", total=num_clips)
        scores = evaluate_toon(
            avatar,
            load_readers(),
            num_clips=num_clips,
            duration_s=duration_s,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
            keep_frames=keep,
        )
    if strip is not None:
        Image.fromarray(torch.cat(rows, 0).numpy()).save(strip)
    return _about(preset, settings, denoiser) | attrs.asdict(scores)


def evaluate_lamp(weights: Sequence[Path], settings: Sequence[str]) -> list[dict[str, Any]]:
    """Return the scores of students of the lamp world; there is a file for each.

    Raises ``ConfigError`` without files, or with settings: the lamp world has no pipeline.
    """
    if not weights or settings:
        raise ConfigError(
            "The lamp world has no preset to change: name the files of students, "
            "`af-train evaluate lamp runs/lamp/ode.safetensors runs/mine/ode.safetensors`."
        )
    return [
        _about("lamp", [], weights_hash(read_tensors(file))) | attrs.asdict(stream_scores(file))
        for file in weights
    ]


def denoiser_of(pipeline: Pipeline) -> str | None:
    """Return the hash of the safetensors that a pipeline's denoiser reads; None without any."""
    file = weights_file(pipeline.stages["denoiser"])
    if file is None or file.suffix != ".safetensors":
        return None
    return weights_hash(read_tensors(file))


def _about(preset: str, settings: Sequence[str], denoiser: str | None) -> dict[str, Any]:
    return dict(zip(ABOUT, (preset, [*settings], denoiser), strict=True))


def _rows(clip: Clip, frames: Tensor) -> list[Tensor]:
    """Return a row of true and a row of generated frames of the clip's last seconds."""
    last = range(len(frames) - 4 * _SHEET_FRAMES, len(frames), 4)
    truth = clip.frames(slice(last.start, last.stop, 4), frames.shape[1]).permute(0, 2, 3, 1)
    made = frames[last.start : last.stop : 4]
    return [torch.cat(list(row), 1) for row in (truth, made)]
