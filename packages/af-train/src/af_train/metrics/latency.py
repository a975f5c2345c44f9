"""How late frames are: the paper's Table 2, and the same counted in frames that people see.

The paper counts the look-ahead as (L - 1) B / 25 s, as if a latent frame were a video frame. It is
four: at L = B = 4 the window waits for 48 more frames of speech, 1.92 s, not for 12.
"""

import attrs
import numpy as np
from af_core.errors import ConfigError
from af_core.geometry import TEMPORAL_STRIDE, VIDEO_FPS
from numpy.typing import ArrayLike, NDArray


@attrs.frozen
class Delays:
    """Seconds, by both definitions."""

    steady_s_per_frame: float
    """Median time of one step over the video frames it emits (Table 2, steady-state latency)."""
    lookahead_s: float
    """Future speech that a block waits for."""
    lookahead_by_the_paper_s: float
    """(L - 1) B / 25."""
    end_to_end_s: float
    """Median, over video frames, of the time from the last sample of a frame's speech to the frame,
    with speech arriving in real time."""
    end_to_end_by_the_paper_s: float
    """Its look-ahead and one frame of steady state: .48 + .034 = .51 in Table 2."""
    late_steps: int
    """Steps that took longer than the speech of one block lasts."""


def delays(step_s: ArrayLike, window_blocks: int, block_latents: int) -> Delays:
    """Return all of it from the times ``[n]`` of the steps of a stream, warm-up left out.

    ``window_blocks`` is L, ``block_latents`` B. Raises ``ConfigError`` without steps.
    """
    times = np.asarray(step_s, np.float64)
    if times.size == 0 or not np.all(times >= 0):
        raise ConfigError("Delays need the times of one or more steps, in seconds.")
    block_frames = block_latents * TEMPORAL_STRIDE
    ahead_frames = (window_blocks - 1) * block_frames
    steady = float(np.median(times)) / block_frames
    by_the_paper = (window_blocks - 1) * block_latents / VIDEO_FPS
    return Delays(
        steady_s_per_frame=steady,
        lookahead_s=ahead_frames / VIDEO_FPS,
        lookahead_by_the_paper_s=by_the_paper,
        end_to_end_s=float(np.median(frame_delays(times, block_frames, ahead_frames))),
        end_to_end_by_the_paper_s=by_the_paper + steady,
        late_steps=int((times > block_frames / VIDEO_FPS).sum()),
    )


def frame_delays(
    step_s: NDArray[np.float64], block_frames: int, ahead_frames: int
) -> NDArray[np.float64]:
    """Return how late each frame is, ``[n block_frames]``, if speech arrives in real time.

    Step i starts when the speech of its block and of ``ahead_frames`` more is there and step
    i - 1 is done; all its frames are out when it is done. Frame t is due at the end of its speech.
    """
    blocks = np.arange(len(step_s))
    heard = ((blocks + 1) * block_frames + ahead_frames) / VIDEO_FPS
    done = np.empty(len(step_s))
    free = 0.0
    for i, (ready, lasts) in enumerate(zip(heard, step_s, strict=True)):
        free = max(ready, free) + lasts
        done[i] = free
    due = (np.arange(len(step_s) * block_frames) + 1) / VIDEO_FPS
    return np.repeat(done, block_frames) - due
