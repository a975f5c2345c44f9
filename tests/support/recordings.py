"""Recordings of which every frame tells its number and every number its sound: for real data."""

from fractions import Fraction

import av
import numpy as np
from av.audio.frame import AudioFrame

FPS, RATE = 25, 48_000


def grey(number):
    """The brightness of frame `number`: all different for 60 frames."""
    return 20 + 3 * (number % 60)


def tone(seconds, rate=RATE, level=0.3):
    return level * np.sin(2 * np.pi * 220 * np.arange(int(seconds * rate)) / rate)


def clicking(frames, numbers, rate=RATE, fps=FPS):
    """A hum with a click at the beginning of some frames."""
    sound = tone(frames / fps, rate, 0.05)
    for number in numbers:
        at = round(number * rate / fps)
        sound[at : at + rate // 500] = 0.9
    return sound


def write_recording(path, brightness, sound, *, fps=FPS, size=(64, 48), video_at=0.0, sound_at=0.0,
                    rotation=0, ratio=None, times=None, codec="libx264"):  # fmt: skip
    """Write grey frames and mono sound, each stream beginning at a time in seconds."""
    with av.open(str(path), "w") as container:
        video = container.add_stream(codec, rate=fps, options={"crf": "8", "g": "5"})
        video.width, video.height = size
        video.pix_fmt = "yuv420p"
        if ratio is not None:
            video.codec_context.sample_aspect_ratio = Fraction(*ratio)
        if rotation:
            video.set_display_rotation(rotation)
        heard = None
        if sound is not None:
            heard = container.add_stream("flac" if str(path).endswith("mkv") else "aac", rate=RATE,
                                         layout="mono")  # fmt: skip
        unit = Fraction(1, 1000)
        stamps = times or [video_at + i / fps for i in range(len(brightness))]
        for value, stamp in zip(brightness, stamps, strict=True):
            picture = np.full((size[1], size[0], 3), value, np.uint8)
            if np.ndim(value) == 3:
                picture = value
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = round(stamp / unit), unit
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        if heard is not None:
            _sound(container, heard, sound, sound_at)
    return path


def _sound(container, stream, samples, start_s):
    whole = (np.clip(samples, -1, 1) * 32767).astype(np.int16)
    is_flac = stream.codec_context.name == "flac"
    for first in range(0, len(whole), 4096):
        part = whole[None, first : first + 4096]
        data, format = (part, "s16") if is_flac else (part.astype(np.float32) / 32768, "fltp")
        frame = AudioFrame.from_ndarray(np.ascontiguousarray(data), format=format, layout="mono")
        frame.sample_rate, frame.time_base = RATE, Fraction(1, RATE)
        frame.pts = first + round(start_s * RATE)
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))
