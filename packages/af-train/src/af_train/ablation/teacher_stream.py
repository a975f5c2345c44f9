"""A minute from a teacher that can make only short clips: clips that overlap, joined.

The paper's teacher is an offline model, and its table 4 has it drift over a minute, so its clips
must have been continued; how, is not said. Here each clip sees the portrait, and the first frames
of its noise path are those of the clip before, noised to the level of the step: the teacher fills
in what is missing. It was never trained for that, nor needs to be.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import attrs
import torch
from af_core.errors import ShapeError
from torch import Tensor

from af_train import draws
from af_train.batches import Batch
from af_train.guidance import Guidance
from af_train.levels import euler_grid
from af_train.networks import Conditions
from af_train.recipes.lantern import SHIFT
from af_train.trajectories import guided_velocity

OVERLAP = 4
"""Latent frames that a clip shares with the one before."""
NUM_STEPS = 32


@attrs.frozen
class Sampling:
    """How a clip is drawn."""

    grid: Sequence[float] = attrs.field(factory=lambda: euler_grid(NUM_STEPS, SHIFT))
    """Noise levels from 1 to 0."""
    guidance: Guidance = attrs.field(factory=lambda: Guidance(1.0, 1.0))


@torch.no_grad()
def teacher_stream(
    teacher: Any,
    batch: Batch,
    num_latents: int,
    clip_latents: int,
    sampling: Sampling | None = None,
) -> Iterator[Tensor]:
    """Yield what each clip adds, ``[b, f, c, h, w]``, until ``num_latents`` are made.

    ``batch.rows`` must reach ``clip_latents`` frames beyond the last one at most; ``sampling`` is
    by default that of the lamp world. Raises ``ShapeError`` for less speech than a clip takes.
    """
    if batch.num_frames < clip_latents:
        raise ShapeError(
            f"A clip takes speech of {clip_latents} latent frames; {batch.num_frames} are there."
        )
    how = sampling or Sampling()
    past: Tensor | None = None
    made = 0
    while made < num_latents:
        known = 0 if past is None else OVERLAP
        start = min(made - known, batch.num_frames - clip_latents)
        known = made - start
        rows = batch.rows[:, 4 * start : 4 * (start + clip_latents)]
        clip = _filled(teacher, batch, rows, past, known, start, how)
        past = clip if past is None else torch.cat([past, clip[:, known:]], 1)
        past = past[:, -clip_latents:]
        made = start + clip_latents
        yield clip[:, known:]


def _filled(
    teacher: Any,
    batch: Batch,
    rows: Tensor,
    past: Tensor | None,
    known: int,
    start: int,
    how: Sampling,
) -> Tensor:
    """Return a clip whose first ``known`` frames are the last of ``past``."""
    frames = rows.shape[1] // 4
    like = batch.portrait.expand(-1, frames, -1, -1, -1)
    noise = draws.normal(batch.seeds, f"clip at {start}", like)
    given = Conditions(batch.portrait, rows, batch.text)
    velocity, x = guided_velocity(teacher, given, how.guidance, frames), noise
    for sigma, lower in pairwise(how.grid):
        x = x + (lower - sigma) * velocity(x, sigma)
        if past is not None and known:
            kept = (1 - lower) * past[:, -known:] + lower * noise[:, :known]
            x = torch.cat([kept, x[:, known:]], 1)
    return x
