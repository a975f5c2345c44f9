"""A clip of any length in bounded memory: small frames, and how loud it was when."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

MAX_KEPT = 192
"""Small frames kept; when there are more, every second one goes and half as many are taken."""

MAX_BINS = 16_384
"""Loudness values kept; when there are more, neighbours are joined."""

BINS_PER_SECOND = 200
THUMBNAIL_PIXELS = 160 * 160


class Thumbnails:
    """Keeps evenly spaced small copies of the frames of a clip."""

    def __init__(self, width: int, height: int) -> None:
        scale = (THUMBNAIL_PIXELS / (width * height)) ** 0.5
        self.size = (round(width * scale), round(height * scale))
        self.num_frames = 0
        self._stride = 1
        self._kept: list[NDArray[np.uint8]] = []

    def add(self, frames: NDArray[np.uint8]) -> None:
        """Take the next frames, uint8 RGB ``[n, H, W, 3]``."""
        for frame in frames:
            if self.num_frames % self._stride == 0:
                small = Image.fromarray(frame).resize(self.size, Image.Resampling.BICUBIC)
                self._kept.append(np.asarray(small))
            self.num_frames += 1
            if len(self._kept) > MAX_KEPT:
                self._kept = self._kept[::2]
                self._stride *= 2

    def nearest(self, frame: float) -> tuple[int, NDArray[np.uint8]]:
        """Return the number and picture ``[h, w, 3]`` of the kept frame nearest to ``frame``."""
        slot = min(max(round(frame / self._stride), 0), len(self._kept) - 1)
        return slot * self._stride, self._kept[slot]


class Envelope:
    """Keeps how loud a sound was over time: the peak of each short span."""

    def __init__(self, sample_rate: int) -> None:
        self._samples_per_bin = max(1, sample_rate // BINS_PER_SECOND)
        self._sample_rate = sample_rate
        self._rest = np.zeros(0, np.float32)
        self._group = 1
        self._open: list[float] = []
        self._bins: list[float] = []

    @property
    def peak(self) -> float:
        """The loudest sample so far, 0 to 1."""
        return max([*self._bins, *self._open], default=0.0)

    def add(self, samples: NDArray[np.float32]) -> None:
        """Take the next sound, float32 ``[channels, n]``."""
        loud = np.concatenate([self._rest, np.abs(samples).max(0)])
        full = len(loud) // self._samples_per_bin * self._samples_per_bin
        self._rest = loud[full:]
        for value in loud[:full].reshape(-1, self._samples_per_bin).max(1).tolist():
            self._open.append(value)
            if len(self._open) == self._group:
                self._bins.append(max(self._open))
                self._open = []
                self._join_if_many()

    def between(self, start_s: float, end_s: float, count: int) -> NDArray[np.float32]:
        """Return the peaks of ``count`` equal spans of a time, float32 ``[count]``."""
        values = np.array([*self._bins, max(self._open, default=0.0)], np.float32)
        seconds_per_bin = self._group * self._samples_per_bin / self._sample_rate
        edges = np.linspace(start_s, end_s, count + 1) / seconds_per_bin
        first = np.clip(np.floor(edges[:-1]).astype(int), 0, len(values) - 1)
        last = np.clip(np.ceil(edges[1:]).astype(int), first + 1, len(values))
        peaks = [values[a:b].max() for a, b in zip(first, np.maximum(last, first + 1), strict=True)]
        return np.array(peaks, np.float32)

    def _join_if_many(self) -> None:
        if len(self._bins) == MAX_BINS:
            self._bins = np.array(self._bins).reshape(-1, 2).max(1).tolist()
            self._group *= 2
