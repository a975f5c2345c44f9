"""How fast a stream runs: what a step costs, when the first frame came, how far ahead it is."""

import time
from array import array

import numpy as np
from af_core.geometry import VIDEO_FPS


def times(factor: float, decimals: int = 1) -> str:
    """Return a speed such as ``2.5x``; below 0.05 two significant digits, so it is never 0.0x."""
    return f"{factor:.{decimals}f}x" if factor >= 0.05 else f"{factor:.2g}x"


class Stopwatch:
    """Times one stream from its opening. Waiting for input does not count as work.

    A *step* lasts from one emission of frames to the next, so it includes everything a steady
    stream needs: audio features, network, decoder, and handing frames to the encoder.
    """

    def __init__(self) -> None:
        self._begin = self._emitted = time.perf_counter()
        self._waited = self._waited_in_step = 0.0
        self._wait_began: float | None = None
        self.ttff_s: float | None = None
        """Seconds from opening to the first frame, waiting for input not counted."""
        self.num_frames = 0
        self.step_s = array("d")
        """Seconds of each emitting step."""
        self.step_frames = array("l")
        """Frames of each emitting step."""

    def waiting(self) -> None:
        """Begin to wait for input."""
        self._wait_began = time.perf_counter()

    def working(self) -> None:
        """End the wait for input."""
        if self._wait_began is not None:
            seconds = time.perf_counter() - self._wait_began
            self._waited += seconds
            self._waited_in_step += seconds
            self._wait_began = None

    def emitted(self, num_frames: int) -> None:
        """Note that frames are there."""
        if num_frames == 0:
            return
        now = time.perf_counter()
        if self.ttff_s is None:
            self.ttff_s = now - self._begin - self._waited
        else:
            self.step_s.append(now - self._emitted - self._waited_in_step)
            self.step_frames.append(num_frames)
        self._emitted, self._waited_in_step = now, 0.0
        self.num_frames += num_frames

    def realtime_factor(self) -> float:
        """Return seconds of video made per second of work so far."""
        seconds = time.perf_counter() - self._begin - self._waited
        return self.num_frames / VIDEO_FPS / max(seconds, 1e-9)

    def frame_ms(self, percent: float) -> float | None:
        """Return a percentile of the milliseconds per frame; None before the second step."""
        if not self.step_s:
            return None
        each = 1e3 * np.array(self.step_s) / np.array(self.step_frames)
        return float(np.percentile(each, percent))
