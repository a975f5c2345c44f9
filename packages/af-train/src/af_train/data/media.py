"""A video and its sound as training sees them: 25 fps, one size, 16 kHz mono, the same clock.

Frame i of a recording is heard in samples ``[640 i, 640 i + 640)``. Both streams are laid on one
clock by their time stamps and begin where the later of them begins.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args

import attrs
import av
import numpy as np
from af_audio import read_speech
from af_audio.errors import AudioError
from af_core.errors import AvatarForcingError, ConfigError
from af_core.geometry import AUDIO_HZ, SAMPLES_PER_FRAME, VIDEO_FPS
from av.error import FFmpegError
from av.video.frame import VideoFrame
from numpy.typing import NDArray
from PIL import Image, ImageColor, ImageOps

from af_train.data.manifest import Recording

Fit = Literal["crop", "pad", "release"]
"""How a frame is brought to the avatar's size, as portraits are: ``crop`` fills and cuts what is
over, ``pad`` shows all and adds background, ``release`` bends."""
Reason = Literal[
    "missing", "not_media", "no_video", "no_sound", "silent", "too_short", "damaged", "out_of_step"
]

_CENTRE = (0.5, 0.4)
_BACKGROUND = ImageColor.getrgb("#e8eaed")
_SILENT = 1e-3
"""A recording whose loudest 20 ms stay below this (-60 dB of full scale) is silent."""
_DRIFT_S = 0.04
"""Time stamps of sound may disagree with its samples by one video frame."""
_NEAR = 1e-6
"""Seconds by which rounded time stamps may be late."""


class UnusableError(AvatarForcingError):
    """A recording, or what is left of it, cannot be used."""

    def __init__(self, reason: Reason, text: str) -> None:
        super().__init__(text)
        self.reason: Reason = reason


@attrs.frozen(eq=False)
class Size:
    """What every frame is brought to."""

    width: int
    height: int
    fit: Fit = "crop"

    def __attrs_post_init__(self) -> None:
        if self.fit not in get_args(Fit):
            raise ConfigError(f"Frames are fitted by one of {get_args(Fit)}; got {self.fit!r}.")


@attrs.frozen(eq=False)
class Opened:
    """The sound of a recording, and when its video and sound begin."""

    recording: Recording
    samples: NDArray[np.float32]
    """Mono, 16 kHz, ``[n]``, from the first frame on."""
    start_s: float
    """Time of frame 0 on the clock of the video."""
    pixel_ratio: float = 1.0
    """Width of a pixel of the video over its height."""

    @property
    def num_frames(self) -> int:
        """Return the frames that have sound; the video may end before."""
        return len(self.samples) // SAMPLES_PER_FRAME

    def frames(self, size: Size) -> Iterator[NDArray[np.uint8]]:
        """Yield ``uint8 [H, W, 3]`` at 25 fps, each the source frame nearest in time.

        Ends with the video or with the sound, whichever is first. Raises ``UnusableError`` where
        the video is damaged.
        """
        times = (self.start_s + i / VIDEO_FPS for i in range(self.num_frames))
        for frame in nearest(_decoded(self.recording.video), times):
            yield fitted(frame, size, self.pixel_ratio)


def open_recording(recording: Recording) -> Opened:
    """Read the sound of a recording and find where both begin; ``UnusableError`` says why not."""
    for path in (recording.video, recording.audio):
        if not path.is_file():
            raise UnusableError("missing", f"There is no file {path}.")
    video_s, pixel_ratio = _video_start(recording.video)
    if recording.audio != recording.video:
        _walked(recording.video)
    sound_s = _sound_start(recording.audio)
    try:
        samples = read_speech(recording.audio).numpy()
    except AudioError as error:
        raise UnusableError("damaged", str(error)) from error
    late = math.ceil((sound_s - video_s) * VIDEO_FPS - 1e-3)  # begin on a frame of the video
    start_s = video_s + max(0, late) / VIDEO_FPS
    samples = samples[round((start_s - sound_s) * AUDIO_HZ) :]
    _require_loud(samples, recording.audio)
    return Opened(recording, samples, start_s, pixel_ratio)


def nearest(source: Iterator[tuple[float, Any]], times: Iterator[float]) -> Iterator[Any]:
    """Yield for each time the item of ``source`` that is nearest; of two equally near, the later.

    Both rise. Ends where the source does: half a frame of 25 fps after its last item.
    """
    now = next(source, None)
    after = next(source, None)
    for time in times:
        while now and after and after[0] - time <= time - now[0] + _NEAR:
            now, after = after, next(source, None)
        if now is None or (after is None and time > now[0] + 0.5 / VIDEO_FPS + _NEAR):
            return
        yield now[1]


def fitted(frame: VideoFrame, size: Size, pixel_ratio: float = 1.0) -> NDArray[np.uint8]:
    """Return a decoded frame upright, with square pixels, in the wanted size."""
    image = frame.to_image()
    if pixel_ratio != 1:
        image = image.resize((max(1, round(image.width * pixel_ratio)), image.height))
    if frame.rotation:
        image = image.rotate(frame.rotation, expand=True)
    return np.asarray(fit_image(image, size))


def fit_image(image: Image.Image, size: Size) -> Image.Image:
    """Return an image in the wanted size, as the runtime fits portraits."""
    wanted = (size.width, size.height)
    if image.size == wanted:
        return image
    if size.fit == "release":
        return image.resize(wanted, Image.Resampling.BILINEAR)
    if size.fit == "crop":
        return ImageOps.fit(image, wanted, Image.Resampling.BICUBIC, centering=_CENTRE)
    return ImageOps.pad(image, wanted, Image.Resampling.BICUBIC, color=_BACKGROUND[:3])


def _opened(path: Path) -> Any:
    try:
        return av.open(f"file:{path}", options={"protocol_whitelist": "file"})
    except (FFmpegError, ValueError) as error:
        size = path.stat().st_size
        raise UnusableError(
            "not_media", f"{path} is not media that FFmpeg can read, or has no index ({size} bytes)"
        ) from error


def _video_start(path: Path) -> tuple[float, float]:
    """Return when the video begins, and the shape of its pixels."""
    with _opened(path) as container:
        if not container.streams.video:
            raise UnusableError("no_video", f"{path} has no video in it.")
        stream = container.streams.video[0]
        return _first_time(container, stream, path), float(stream.sample_aspect_ratio or 1)


def _sound_start(path: Path) -> float:
    """Return when the sound begins; raise if its time stamps and its samples disagree."""
    with _opened(path) as container:
        if not container.streams.audio:
            raise UnusableError("no_sound", f"{path} has no sound in it.")
    gap_s = _walked(path)
    if gap_s > _DRIFT_S:
        raise UnusableError(
            "out_of_step",
            f"{path}: the time stamps of its sound leave its samples by {gap_s:.2f} s, so lips "
            "and sound cannot be aligned. Mend it with ffmpeg -af aresample=async=1.",
        )
    with _opened(path) as container:
        return _first_time(container, container.streams.audio[0], path)


def _first_time(container: Any, stream: Any, path: Path) -> float:
    """Return the time of the first frame, counted from the beginning of the container."""
    try:
        first = next(container.decode(stream), None)
    except FFmpegError as error:
        raise UnusableError("damaged", f"{path} cannot be decoded: {error.strerror}.") from error
    if first is None:
        raise UnusableError("damaged", f"{path} holds no {stream.type} that can be decoded.")
    return float(first.time or 0.0) - _zero(container)


def _zero(container: Any) -> float:
    return (container.start_time or 0) / av.time_base


def _walked(path: Path) -> float:
    """Walk over all packets of a file, decoding none; raise if it ends before it should.

    Returns the seconds by which packets of sound leave where the ones before them end, at most.
    """
    end, gap, reached = None, 0.0, 0.0
    with _opened(path) as container:
        sound = next(iter(container.streams.audio), None)
        try:
            for packet in container.demux():
                if packet.pts is None or packet.time_base is None:
                    continue
                unit, last = float(packet.time_base), packet.pts + (packet.duration or 0)
                reached = max(reached, last * unit)
                if sound is None or packet.stream.index != sound.index or not packet.duration:
                    continue
                gap = gap if end is None else max(gap, abs(packet.pts - end) * unit)
                end = (packet.pts if end is None else end) + packet.duration
        except FFmpegError as error:
            raise UnusableError(
                "damaged", f"{path} is damaged after {reached:.2f} s: {error.strerror}."
            ) from error
        stated, reached = (container.duration or 0) / av.time_base, reached - _zero(container)
    if reached < 0.98 * stated - 0.2:
        raise UnusableError(
            "damaged",
            f"{path} is cut short: its header promises {stated:.2f} s, {reached:.2f} s are there.",
        )
    return gap


def _decoded(path: Path) -> Iterator[tuple[float, VideoFrame]]:
    """Yield every frame with its time; raise ``UnusableError`` at damage."""
    with _opened(path) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        zero, time, frames = _zero(container), 0.0, container.decode(stream)
        while True:
            try:
                frame = next(frames, None)
            except FFmpegError as error:
                raise UnusableError(
                    "damaged", f"{path} is damaged after {time:.2f} s: {error.strerror}."
                ) from error
            if frame is None:
                return
            if frame.is_corrupt:
                raise UnusableError("damaged", f"{path} is damaged at {time:.2f} s.")
            if frame.time is not None:
                time = float(frame.time) - zero
            yield time, frame


def _require_loud(samples: NDArray[np.float32], path: Path) -> None:
    size = AUDIO_HZ // 50
    pieces = samples[: len(samples) // size * size].reshape(-1, size)
    loudest = math.sqrt(float(np.square(pieces).mean(1).max())) if len(pieces) else 0.0
    if len(pieces) and loudest < _SILENT:
        level = f"{20 * math.log10(loudest):.0f} dB" if loudest else "digital silence"
        raise UnusableError(
            "silent", f"{path} is silent: its loudest 20 ms are {level}; speech is above -60 dB."
        )
