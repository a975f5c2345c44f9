"""Write an mp4 as its frames and sound arrive, with lips and sound aligned to the frame.

Video frame i is shown for 1/25 s from ``i / 25`` s and sounds with audio samples
``[i * rate // 25, (i + 1) * rate // 25)``. The AAC encoder begins with 1,024 samples of its own;
the edit list that hides them is right only if the header is written after the first packets
(``delay_moov``). The file is written in fragments and becomes an ordinary mp4 when it is finished
(``hybrid_fragmented``): even after a power cut all but the last two seconds can be played.
The index of the ordinary mp4 takes 9 MB of memory for each hour of video, and nothing else grows.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import attrs
import av
import numpy as np
from af_audio import Resampler, first_sample, to_mono
from af_core.geometry import VIDEO_FPS
from av.audio.frame import AudioFrame
from av.error import FFmpegError
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, Colorspace
from numpy.typing import NDArray

from af_runtime.errors import MediaError, RequestError, UnavailableError
from af_runtime.outputs import temporary_beside

H264_ENCODERS = ("libx264", "libopenh264")
AAC_RATES = (16_000, 22_050, 24_000, 32_000, 44_100, 48_000)
BT709 = 1
"""FFmpeg's number of BT.709 for colour space, primaries and transfer alike."""

FRAGMENTS = "+frag_keyframe+delay_moov"


@attrs.frozen
class VideoSettings:
    """How frames are encoded. The defaults look clean and cost about 1 ms a frame at 256x256."""

    quality: int = 18
    """H.264 constant rate factor: 0 is lossless, 18 looks clean, 28 is rough."""
    speed: str = "veryfast"
    """The x264 preset: faster ones make larger files."""
    keyframe_interval: int = 2 * VIDEO_FPS
    """Frames from one entry point to the next; also how much a power cut can cost."""
    threads: int = 1
    """Encoder threads; the model needs the others."""
    fragmented: bool = False
    """Leave the file in fragments: some players dislike it, but memory does not grow at all."""


class Mp4Writer:
    """One mp4 with H.264 video and AAC sound, in constant memory, complete or not there at all.

    Sound may be added ahead of the picture: it is held back until its frame arrives. Use it as a
    context manager: leaving normally finishes the file, an exception removes it.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        width: int,
        height: int,
        sample_rate: int,
        num_channels: int = 1,
        settings: VideoSettings | None = None,
    ) -> None:
        if width % 2 or height % 2:
            raise RequestError(f"H.264 needs an even width and height; got {width}x{height}.")
        settings = settings or VideoSettings()
        self.path = Path(path)
        self.num_frames = 0
        self._part = temporary_beside(self.path)
        movflags = FRAGMENTS if settings.fragmented else FRAGMENTS + "+hybrid_fragmented"
        options = {"movflags": movflags, "flush_packets": "1"}
        with self._reported():
            self._container = av.open(f"file:{self._part}", "w", format="mp4", options=options)
        try:
            self._video = _add_video(self._container, width, height, settings)
            self._sound = _Sound(self._container, sample_rate, num_channels)
        except BaseException:
            self.discard()
            raise

    def add_audio(self, samples: NDArray[np.float32]) -> None:
        """Take the next sound, float32 ``[channels, n]`` at the source's rate."""
        self._sound.add(samples)

    def add_frames(self, frames: NDArray[np.uint8]) -> None:
        """Take the next frames, uint8 RGB ``[n, H, W, 3]``, and write what sounds with them."""
        with self._reported():
            for frame in frames:
                self._mux(self._video.encode(self._picture(frame)))
                self.num_frames += 1
                self._mux(self._sound.encode_until(self.num_frames))

    def finish(self) -> Path:
        """Complete the file, put it in its place and return its path.

        Sound ends with the last frame: what is missing is silence, what is left over is cut.
        """
        with self._reported():
            self._mux(self._sound.finish(self.num_frames))
            self._mux(self._video.encode(None))
            self._container.close()
            os.replace(self._part, self.path)
        return self.path

    def discard(self) -> None:
        """Leave nothing behind."""
        try:
            self._container.close()
        except (FFmpegError, OSError):
            pass  # what could not be written is removed anyway
        finally:
            self._part.unlink(missing_ok=True)

    def __enter__(self) -> "Mp4Writer":
        """Return the writer."""
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        """Finish the file, or remove it if an exception is on its way."""
        if kind is None:
            self.finish()
        else:
            self.discard()

    def _picture(self, pixels: NDArray[np.uint8]) -> VideoFrame:
        frame = to_yuv(pixels, self._video.width, self._video.height)
        frame.pts, frame.time_base = self.num_frames, Fraction(1, VIDEO_FPS)
        return frame

    def _mux(self, packets: Any) -> None:
        for packet in packets:
            self._container.mux(packet)

    @contextmanager
    def _reported(self) -> Iterator[None]:
        try:
            yield
        except (FFmpegError, OSError) as e:
            raise MediaError(f"{self.path} could not be written: {e.strerror or e}.") from e


def h264_encoder() -> str:
    """Return the name of the H.264 encoder of this PyAV; raises `UnavailableError`."""
    codec = next((name for name in H264_ENCODERS if name in av.codecs_available), None)
    if codec is None:
        raise UnavailableError(
            f"This PyAV has no H.264 encoder (looked for {', '.join(H264_ENCODERS)}). "
            "The wheels on PyPI have one: pip install --force-reinstall --only-binary av av"
        )
    return codec


def to_yuv(pixels: NDArray[np.uint8], width: int, height: int) -> VideoFrame:
    """Return uint8 RGB ``[H, W, 3]`` as BT.709 with halved colour, of the given size."""
    frame = VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
    return frame.reformat(
        width=width,
        height=height,
        format="yuv420p",
        dst_colorspace=Colorspace.ITU709,
        src_color_range=ColorRange.JPEG,
        dst_color_range=ColorRange.MPEG,
    )


class _Sound:
    """The AAC track: brings sound to a rate AAC knows and hands it out frame by frame."""

    def __init__(self, container: Any, sample_rate: int, num_channels: int) -> None:
        self.rate = min(AAC_RATES, key=lambda rate: (rate < sample_rate, abs(rate - sample_rate)))
        self._channels = num_channels if num_channels <= 2 else 1
        self._layout = "stereo" if self._channels == 2 else "mono"
        self._resampler = Resampler(sample_rate, self.rate, num_channels=self._channels)
        self._stream = container.add_stream("aac", rate=self.rate, layout=self._layout)
        self._stream.bit_rate = 96_000 * self._channels if self.rate > 32_000 else 64_000
        self._waiting: list[NDArray[np.float32]] = []
        self._num_waiting = 0
        self._num_done = 0

    def add(self, samples: NDArray[np.float32]) -> None:
        mixed = samples if len(samples) == self._channels else to_mono(samples)[None]
        self._hold(self._resampler.step(mixed))

    def encode_until(self, frame: int) -> Iterator[Any]:
        """Encode the sound up to the beginning of ``frame``, as far as it has arrived."""
        count = min(first_sample(frame, self.rate) - self._num_done, self._num_waiting)
        if count > 0:
            yield from self._encode(self._take(count))

    def finish(self, num_frames: int) -> Iterator[Any]:
        self._hold(self._resampler.flush())
        yield from self.encode_until(num_frames)
        missing = first_sample(num_frames, self.rate) - self._num_done
        if missing > 0:
            yield from self._encode(np.zeros((self._channels, missing), np.float32))
        yield from self._stream.encode(None)

    def _hold(self, samples: NDArray[np.float32]) -> None:
        if samples.shape[1]:
            self._waiting.append(samples)
            self._num_waiting += samples.shape[1]

    def _take(self, count: int) -> NDArray[np.float32]:
        several = len(self._waiting) > 1
        joined = np.concatenate(self._waiting, axis=1) if several else self._waiting[0]
        self._waiting = [joined[:, count:]] if joined.shape[1] > count else []
        self._num_waiting -= count
        return joined[:, :count]

    def _encode(self, samples: NDArray[np.float32]) -> Iterator[Any]:
        planes = np.ascontiguousarray(np.clip(samples, -1, 1))
        frame = AudioFrame.from_ndarray(planes, format="fltp", layout=self._layout)
        frame.sample_rate, frame.time_base = self.rate, Fraction(1, self.rate)
        frame.pts = self._num_done
        self._num_done += samples.shape[1]
        yield from self._stream.encode(frame)


def _add_video(container: Any, width: int, height: int, settings: VideoSettings) -> Any:
    codec = h264_encoder()
    options = {"crf": str(settings.quality), "preset": settings.speed} if "x264" in codec else {}
    stream = container.add_stream(codec, rate=VIDEO_FPS, options=options)
    stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
    context = stream.codec_context
    context.time_base = Fraction(1, VIDEO_FPS)
    context.gop_size = settings.keyframe_interval
    context.thread_count = settings.threads
    context.colorspace = context.color_primaries = context.color_trc = BT709
    context.color_range = ColorRange.MPEG
    return stream
