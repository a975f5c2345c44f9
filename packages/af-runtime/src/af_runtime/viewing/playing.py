"""What a viewer would have seen of frames that came when they came. Pure functions of times."""

import attrs
import numpy as np
from af_core.geometry import SAMPLES_PER_FRAME, VIDEO_FPS
from numpy.typing import NDArray

Seconds = NDArray[np.float64]

TOLERANCE_S = 1e-6
"""A frame that is later by less is in time: clocks are not read more finely."""


@attrs.frozen
class Playback:
    """How smoothly frames could be shown."""

    underruns: int
    """How often a frame was not there when it should have been shown."""
    stall_s: float
    """How long pictures stood still for it, in all."""
    misses: int
    """Frames that came later than a constant delay after the first would have allowed."""


def play(arrival_s: Seconds, buffer_s: float) -> Playback:
    """Play frames ``[n]`` at 25 a second, the first of them ``buffer_s`` after it came.

    A player stands still when the next frame is not there, and goes on as soon as it is: what
    follows is then due later. ``misses`` counts against the clock that never stood still.
    """
    if not len(arrival_s):
        return Playback(0, 0.0, 0)
    due = arrival_s[0] + buffer_s + np.arange(len(arrival_s)) / VIDEO_FPS
    late_s = arrival_s - due
    late_s[late_s < TOLERANCE_S] = 0.0
    stalled = np.maximum.accumulate(np.maximum(late_s, 0.0))
    return Playback(
        underruns=int((np.diff(stalled, prepend=0.0) > 0).sum()),
        stall_s=float(stalled[-1]),
        misses=int((late_s > 0).sum()),
    )


def ages(
    arrival_s: Seconds, num_samples: NDArray[np.int64], pushed_s: Seconds, pushed: NDArray[np.int64]
) -> Seconds:
    """Return how old the last speech of each frame was when it came, ``[m]``, m frames of speech.

    ``num_samples [n]`` are each frame's samples of speech, 0 if nothing is said; ``pushed`` is the
    total of samples after each push, at ``pushed_s``.
    """
    speaks = num_samples > 0
    ends = np.cumsum(num_samples)[speaks]
    pushes = np.minimum(np.searchsorted(pushed, ends), len(pushed) - 1)
    return arrival_s[speaks] - pushed_s[pushes]


def skews(
    pts: NDArray[np.int64], is_fresh: NDArray[np.bool_], speaks: NDArray[np.bool_]
) -> Seconds:
    """Return how far the picture on the screen was behind the sound, for frames with sound.

    A frame whose picture is the one before (``is_fresh`` false) shows what an earlier ``pts`` was
    drawn for.
    """
    shown = np.maximum.accumulate(np.where(is_fresh, pts, 0))
    return ((pts - shown) / (SAMPLES_PER_FRAME * VIDEO_FPS))[speaks]
