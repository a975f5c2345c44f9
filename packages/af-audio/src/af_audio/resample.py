"""Any sample rate and channel count to what the models hear: 16 kHz mono.

Resampling is libsoxr's, in its streaming form: the filter's memory travels from chunk to chunk,
so the result does not depend on how the audio was cut, bit for bit.
"""

import numpy as np
import soxr
from af_core.geometry import AUDIO_HZ
from numpy.typing import NDArray

from af_audio.errors import AudioError

MIN_HZ, MAX_HZ = 1_000, 768_000
"""Sample rates outside these are taken for a mistake."""


def to_mono(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the mean of the channels: ``[channels, n]`` to ``[n]``.

    A voice recorded equally on all channels keeps its level.
    """
    return samples[0] if samples.shape[0] == 1 else samples.mean(0, dtype=np.float32)


class Resampler:
    """Changes the sample rate of one stream.

    The filter's memory lives inside libsoxr and cannot be copied, so unlike a stage a resampler
    *is* its state: use one for each stream.
    """

    def __init__(self, from_hz: int, to_hz: int = AUDIO_HZ, *, num_channels: int = 1) -> None:
        for rate in (from_hz, to_hz):
            if not MIN_HZ <= rate <= MAX_HZ:
                raise AudioError(
                    f"A sample rate of {rate} Hz makes no sense; {MIN_HZ} to {MAX_HZ} Hz work."
                )
        self._num_channels = num_channels
        self._same = from_hz == to_hz
        self._stream = soxr.ResampleStream(from_hz, to_hz, num_channels, dtype="float32")

    def step(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        """Take ``[channels, n]``, n >= 0; return the samples that are complete by now."""
        return samples if self._same else self._run(samples, last=False)

    def flush(self) -> NDArray[np.float32]:
        """Return the tail; in all ``round(n * to_hz / from_hz)`` samples have come out."""
        nothing = np.zeros((self._num_channels, 0), np.float32)
        return nothing if self._same else self._run(nothing, last=True)

    def _run(self, samples: NDArray[np.float32], *, last: bool) -> NDArray[np.float32]:
        rows = np.ascontiguousarray(samples.T)
        if self._num_channels == 1:
            return self._stream.resample_chunk(rows[:, 0], last=last)[None]
        return np.ascontiguousarray(self._stream.resample_chunk(rows, last=last).T)
