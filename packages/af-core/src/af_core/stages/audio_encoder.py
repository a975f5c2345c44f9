"""Audio encoder: speech in, one row of features per video frame out."""

from typing import Protocol, TypeVar, runtime_checkable

from af_core.tensors import AudioRows, Samples

StateT = TypeVar("StateT")


@runtime_checkable
class AudioEncoder(Protocol[StateT]):
    """Turns 16 kHz mono speech into features; any cut into chunks gives the same rows, exactly.

    Row i describes samples ``[640 i, 640 i + 640)`` and may look ``lookahead_samples`` beyond.
    Silence is an input like any other; zero rows mean "no audio" and are never made here.
    """

    @property
    def feature_dim(self) -> int:
        """Width of a row."""
        ...

    @property
    def lookahead_samples(self) -> int:
        """Samples after a video frame that its row still depends on."""
        ...

    def open(self, num_streams: int) -> StateT:
        """Return the state before the first sample."""
        ...

    def step(self, state: StateT, samples: Samples) -> tuple[AudioRows, StateT]:
        """Take any number of samples (0 too), return the rows ``[b, row, d]`` they complete."""
        ...

    def flush(self, state: StateT) -> tuple[AudioRows, StateT]:
        """Complete a last partial video frame with silence and return the rows still owed."""
        ...
