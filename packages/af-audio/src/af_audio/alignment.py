"""Which samples belong to which video frame, in integers.

Video frame i is driven by, and sounds together with, audio samples ``[640 i, 640 i + 640)`` at
16 kHz. At any other sample rate the borders are the nearest ones that never drift: frame i of
25 fps begins at sample ``i * rate // 25``.
"""

from af_core.geometry import AUDIO_HZ, VIDEO_FPS


def first_sample(frame: int, sample_rate: int = AUDIO_HZ) -> int:
    """Return the sample at which video frame ``frame`` begins."""
    return frame * sample_rate // VIDEO_FPS


def samples_of_frame(frame: int, sample_rate: int = AUDIO_HZ) -> range:
    """Return the samples that sound while video frame ``frame`` is shown."""
    return range(first_sample(frame, sample_rate), first_sample(frame + 1, sample_rate))


def frame_of_sample(sample: int, sample_rate: int = AUDIO_HZ) -> int:
    """Return the video frame that is shown while ``sample`` sounds."""
    return ((sample + 1) * VIDEO_FPS - 1) // sample_rate


def frames_for(num_samples: int, sample_rate: int = AUDIO_HZ) -> int:
    """Return the number of video frames that cover ``num_samples``; the last may be part silent."""
    return -(-num_samples * VIDEO_FPS // sample_rate)
