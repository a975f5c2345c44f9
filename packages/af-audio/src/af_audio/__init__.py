"""Speech for streaming avatars: decode, resample, chunk, align, encode.

Names load on first use, so that listing plugins imports neither torch nor FFmpeg.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from af_audio.alignment import first_sample, frame_of_sample, frames_for, samples_of_frame
    from af_audio.chunker import Chunker, ChunkerState
    from af_audio.errors import AudioError
    from af_audio.io import AudioInfo, AudioSource, open_audio, read_speech, stream_speech
    from af_audio.pcm import PCM_FORMATS, PcmSource
    from af_audio.resample import Resampler, to_mono

__all__ = [
    "PCM_FORMATS",
    "AudioError",
    "AudioInfo",
    "AudioSource",
    "Chunker",
    "ChunkerState",
    "PcmSource",
    "Resampler",
    "first_sample",
    "frame_of_sample",
    "frames_for",
    "open_audio",
    "read_speech",
    "samples_of_frame",
    "stream_speech",
    "to_mono",
]

_HOMES = {
    "alignment": ("first_sample", "frame_of_sample", "frames_for", "samples_of_frame"),
    "chunker": ("Chunker", "ChunkerState"),
    "errors": ("AudioError",),
    "io": ("AudioInfo", "AudioSource", "open_audio", "read_speech", "stream_speech"),
    "pcm": ("PCM_FORMATS", "PcmSource"),
    "resample": ("Resampler", "to_mono"),
}


def __getattr__(name: str) -> Any:
    """Import a public name from its module when it is first asked for."""
    for home, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(f"af_audio.{home}"), name)
    raise AttributeError(f"module 'af_audio' has no attribute {name!r}")
