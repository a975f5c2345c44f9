"""Audio encoder: speech in, one row of features per video frame out."""

from typing import Protocol, TypeVar, runtime_checkable

from af_core.tensors import AudioRevisions, AudioRows, Samples

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


@runtime_checkable
class RevisingAudioEncoder(AudioEncoder[StateT], Protocol[StateT]):
    """An audio encoder that hears the past better as more speech arrives.

    It works in hops of ``hop_frames`` video frames, a block each: with the rows of a hop come new
    rows of the frames before it, and blocks still in the window are driven by these.
    """

    @property
    def hop_frames(self) -> int:
        """Video frames of a hop."""
        ...

    @property
    def revised_frames(self) -> int:
        """Video frames before a hop that are heard anew with it: whole hops."""
        ...

    def step_revising(
        self, state: StateT, samples: Samples
    ) -> tuple[AudioRows, AudioRevisions, StateT]:
        """Return rows ``[b, row, d]`` and revisions ``[b, row / hop_frames, revised_frames, d]``.

        Frames before the first are zeros.
        """
        ...

    def flush_revising(self, state: StateT) -> tuple[AudioRows, AudioRevisions, StateT]:
        """Return the same at the end of the speech."""
        ...
