"""Cut a stream of ragged chunks of samples into chunks of one exact size."""

import attrs
import numpy as np
from numpy.typing import NDArray

from af_audio.errors import AudioError

Samples = NDArray[np.float32]
"""Float32 samples, ``[n]``."""


@attrs.frozen(eq=False)
class ChunkerState:
    """The samples that do not fill a chunk yet, ``[fewer than size]``."""

    pending: Samples


@attrs.frozen
class Chunker:
    """Chunks of exactly ``size`` samples, however the input was cut."""

    size: int

    def __attrs_post_init__(self) -> None:
        if self.size < 1:
            raise AudioError(f"A chunk needs at least one sample; got size={self.size}.")

    def open(self) -> ChunkerState:
        """Return the state of a stream that has received nothing."""
        return ChunkerState(np.zeros(0, np.float32))

    def step(self, state: ChunkerState, samples: Samples) -> tuple[Samples, ChunkerState]:
        """Take samples ``[n]``, n >= 0; return all full chunks ``[m, size]`` and the rest."""
        joined = np.concatenate([state.pending, samples])
        full = len(joined) // self.size * self.size
        return joined[:full].reshape(-1, self.size), ChunkerState(joined[full:].copy())

    def flush(self, state: ChunkerState) -> tuple[Samples, ChunkerState]:
        """Return what is left, ``[rest]``, unpadded: silence is for the model to add."""
        return state.pending, self.open()
