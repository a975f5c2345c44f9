"""Makes and reads media files for the tests, with PyAV and numpy directly."""

import wave

import av
import numpy as np
from av.audio.frame import AudioFrame


def write_wav(path, samples, rate=16_000):
    """Write float samples [n] or [channels, n] as 16-bit PCM."""
    rows = np.atleast_2d(samples)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(len(rows))
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((rows.T * 32767).astype("<i2").tobytes())
    return path


def write_audio(path, samples, codec, rate=48_000, layout="mono", format="fltp"):
    """Encode float samples [channels, n] with any codec into the container of the suffix."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, layout=layout)
        planes = _as_format(np.atleast_2d(samples), format.rstrip("p"))
        data = planes if format.endswith("p") else planes.T.reshape(1, -1)
        frame = AudioFrame.from_ndarray(np.ascontiguousarray(data), format=format, layout=layout)
        frame.sample_rate = rate
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)
    return path


def _as_format(planes, format):
    """Convert floats in [-1, 1] to one of FFmpeg's sample formats."""
    if format == "u8":
        return np.rint(planes * 127 + 128).astype(np.uint8)
    if format in ("s16", "s32"):
        kind = {"s16": np.int16, "s32": np.int32}[format]
        return np.rint(planes.astype(float) * np.iinfo(kind).max).astype(kind)
    return planes.astype(np.float32)


def write_silent_video(path):
    """Write one second of video without sound."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width = stream.height = 32
        for _ in range(25):
            picture = np.zeros((32, 32, 3), np.uint8)
            for packet in stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode(None):
            container.mux(packet)
    return path


def read_video(path):
    """Return frames [n, H, W, 3] and their times in seconds."""
    with av.open(str(path)) as container:
        frames = [(f.to_ndarray(format="rgb24"), float(f.time)) for f in container.decode(video=0)]
    pictures, times = zip(*frames, strict=True)
    return np.stack(pictures), np.array(times)


def read_sound(path):
    """Return samples [channels, n], the sample rate, and the time of the first sample."""
    with av.open(str(path)) as container:
        frames = list(container.decode(audio=0))
    samples = np.concatenate([frame.to_ndarray() for frame in frames], axis=1)
    return samples, frames[0].sample_rate, float(frames[0].time)


def onsets(samples, rate, start_s=0.0, level=0.4, apart_s=0.1):
    """Return the times at which a sound [n] rises above a level."""
    loud = np.flatnonzero(np.abs(samples) > level)
    first = loud[np.concatenate([[True], np.diff(loud) > apart_s * rate])] if len(loud) else loud
    return start_s + first / rate
