"""Evaluate a preset and show what was seen: scores, progress, a sheet of frames."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
import torch
from af_core.graph import parse_overrides
from af_core.pipeline import load
from PIL import Image
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from af_train.metrics.readers import load_readers
from af_train.metrics.toon_suite import evaluate_toon
from af_train.worlds.toon import Clip

_SHEET_CLIPS, _SHEET_FRAMES = 6, 12


def evaluate_preset(
    preset: str,
    settings: Sequence[str],
    *,
    num_clips: int,
    duration_s: int,
    threads: int,
    strip: Path | None,
    console: Console,
) -> dict[str, Any]:
    """Return the scores of a preset; write truth over generated frames to ``strip``."""
    torch.set_num_threads(threads)
    avatar = load(preset, parse_overrides([*settings]))
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
    return attrs.asdict(scores)


def _rows(clip: Clip, frames: Tensor) -> list[Tensor]:
    """Return a row of true and a row of generated frames of the clip's last seconds."""
    last = range(len(frames) - 4 * _SHEET_FRAMES, len(frames), 4)
    truth = clip.frames(slice(last.start, last.stop, 4), frames.shape[1]).permute(0, 2, 3, 1)
    made = frames[last.start : last.stop : 4]
    return [torch.cat(list(row), 1) for row in (truth, made)]
