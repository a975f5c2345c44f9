"""What a driver has to know about an avatar: sizes, delays, rates."""

import attrs

from af_core.geometry import AUDIO_HZ, SAMPLES_PER_FRAME, VIDEO_FPS


@attrs.frozen
class AvatarInfo:
    """What a driver has to know about an avatar."""

    preset: str
    width: int
    """Pixels of a frame."""
    height: int
    """Pixels of a frame."""
    frames_per_block: int
    """Video frames that come out together."""
    block_ms: float
    """Speech that is gathered before it can be drawn."""
    lookahead_ms: float
    """Later speech that a block waits for."""
    delay_ms: float
    """Algorithmic delay: block and look-ahead."""
    num_parameters: int
    """Weights of all stages together."""
    fps: int = VIDEO_FPS
    sample_rate: int = AUDIO_HZ

    @property
    def samples_per_frame(self) -> int:
        """Return the samples of speech that one video frame lasts."""
        return SAMPLES_PER_FRAME
