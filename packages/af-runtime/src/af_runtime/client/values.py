"""What a client hands out: frames with their sound, and events."""

from collections.abc import Mapping

import attrs
import numpy as np
from af_core.geometry import AUDIO_HZ
from numpy.typing import NDArray


@attrs.frozen(eq=False)
class MediaFrame:
    """One frame of 40 ms, and the sound to play with it."""

    video: NDArray[np.uint8]
    """Uint8 RGB [H, W, 3]; must not be changed."""
    audio: NDArray[np.float32]
    """Float32 [640] at 16 kHz; silence if nothing is said."""
    pts: int
    """Time since the session's first frame, in samples at 16 kHz."""
    epoch: int
    """Interruptions before it."""
    segment: int | None
    """The utterance; None if nothing is said."""
    num_samples: int = 0
    """Samples of ``audio`` that were pushed by this client; the others fill the frame."""
    num_skipped: int = 0
    """Samples of a pause before ``audio`` that the worker left out to catch up."""
    is_repeat: bool = False
    """Whether the picture is the one before, because the worker was late."""

    @property
    def idle(self) -> bool:
        """Whether nothing is said."""
        return self.segment is None

    @property
    def time_s(self) -> float:
        """Seconds since the session's first frame."""
        return self.pts / AUDIO_HZ


@attrs.frozen
class Queued:
    """The worker is full; the session waits for a place."""

    position: int
    """1 is the next."""
    retry_after_s: float
    """When a place is expected, if sessions last as long as those before."""


@attrs.frozen
class SegmentStarted:
    """The first frame of an utterance has come."""

    segment: int
    epoch: int
    pts: int


@attrs.frozen
class SegmentFinished:
    """An utterance has ended."""

    segment: int
    epoch: int
    position: int
    """Samples at 16 kHz that came back with frames, without those left out of pauses."""
    interrupted: bool


@attrs.frozen
class Warned:
    """The worker has something to say, and goes on."""

    code: str
    message: str


@attrs.frozen
class BlockDrawn:
    """How the worker drew the block whose frames follow; for clients with ``stats``."""

    num_frames: int
    draw_s: float
    """Seconds that the avatar worked on it."""
    wait_s: float
    """Seconds that it waited for the avatar, and its pictures for the session."""
    stage_s: Mapping[str, float]
    """Seconds by stage."""


Event = SegmentStarted | SegmentFinished | Warned | BlockDrawn
