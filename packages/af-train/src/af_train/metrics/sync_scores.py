"""Sync-D, Sync-C and the offset, from embeddings of lips and sound (spec 4.2 and 8)."""

from typing import Literal

import attrs
import torch
from torch import Tensor
from torch.nn import functional as F

from af_train.metrics.contract import UnmeasurableClipError

REACH = 15
"""Shifts from -15 to +15 video frames are tried."""
Padding = Literal["eval", "reward"]
_TINY = 1e-6


@attrs.frozen
class SyncScores:
    """How well lips and sound fit."""

    confidence: float
    """Sync-C: median of the distances of all shifts minus the least."""
    distance: float
    """Sync-D: the least."""
    shift: int
    """Shift of the least distance: lips at i fit sound at i + shift. Positive: lips are early."""


def sync_scores(lips: Tensor, sound: Tensor, padding: Padding, reach: int = REACH) -> SyncScores:
    """Compare embeddings ``[n, d]``, window by window; the longer is cut to the shorter.

    Raises ``UnmeasurableClipError`` without a window.
    """
    length = min(len(lips), len(sound))
    if length < 1:
        raise UnmeasurableClipError(
            f"{len(lips)} windows of lips and {len(sound)} of sound leave nothing to compare."
        )
    means = shift_distances(lips[:length], sound[:length], padding, reach)
    least, index = means.min(0)
    return SyncScores(float(_median(means) - least), float(least), int(index) - reach)


def shift_distances(lips: Tensor, sound: Tensor, padding: Padding, reach: int = REACH) -> Tensor:
    """Return the mean L2 distance of ``lips[i]`` and ``sound[i + s]``, ``[2 reach + 1]``.

    ``eval``: beyond its ends, sound is zeros, and every shift is a mean over all ``n``, as in
    the published evaluation. ``reward``: a mean over the overlap alone; a shift of ``n`` or more
    overlaps nowhere and is infinite.
    """
    if padding == "eval":
        padded = F.pad(sound, (0, 0, reach, reach))
        windows = padded.unfold(0, len(lips), 1)  # [2 reach + 1, d, n]
        return torch.stack([_apart(lips, w.T).mean() for w in windows])
    return torch.stack([_overlap(lips, sound, s) for s in range(-reach, reach + 1)])


def _overlap(lips: Tensor, sound: Tensor, shift: int) -> Tensor:
    n = len(lips)
    if abs(shift) >= n:
        return lips.new_tensor(torch.inf)
    return _apart(
        lips[max(0, -shift) : n - max(0, shift)], sound[max(0, shift) : n + min(0, shift)]
    ).mean()


def _apart(a: Tensor, b: Tensor) -> Tensor:
    return F.pairwise_distance(a, b, eps=_TINY)


def _median(means: Tensor) -> Tensor:
    """Return the median of the shifts that overlap anywhere."""
    return means[means.isfinite()].median()
