"""Decode any audio file FFmpeg reads, in order and in constant memory."""

import logging
import os
import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol

import attrs
import av
import numpy as np
import torch
from av.audio.frame import AudioFrame
from av.error import FFmpegError
from numpy.typing import NDArray
from torch import Tensor

from af_audio.errors import AudioError
from af_audio.resample import MAX_HZ, MIN_HZ, Resampler, to_mono

EXACT_CONTAINERS = ("wav", "w64", "flac", "mov", "aiff", "caf")
"""Containers whose header states the true length, so that a shorter stream is a damaged one."""

_log = logging.getLogger(__name__)


@attrs.frozen
class AudioInfo:
    """What one source of audio is."""

    name: str
    container: str
    codec: str
    sample_rate: int
    num_channels: int
    duration_s: float | None
    """As the container states it; None when it does not, as for a pipe."""
    is_live: bool = False
    """True if the audio arrives at its own pace, so that waiting for it is no work."""


class AudioSource(Protocol):
    """Audio that is read once, from front to back."""

    @property
    def info(self) -> AudioInfo:
        """What is being read."""
        ...

    def __iter__(self) -> Iterator[NDArray[np.float32]]:
        """Yield float32 samples ``[channels, n]`` in [-1, 1] at ``info.sample_rate``, in order."""
        ...

    def close(self) -> None:
        """Let go of the file."""
        ...


class FileSource:
    """An `AudioSource` over a file in any container and codec FFmpeg reads.

    Opening decodes the first frame, so that what is no audio is refused before any model runs.
    Memory does not grow with the length of the file.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)
        _check_is_readable(self._path)
        try:
            # "file:" keeps FFmpeg from taking "a:b.wav" for a protocol, or a playlist for the web.
            self._container = av.open(f"file:{path}", options={"protocol_whitelist": "file"})
        except (FFmpegError, ValueError) as e:
            raise AudioError(_not_media(self._path)) from e
        try:
            self._open_stream()
        except BaseException:
            self._container.close()
            raise

    def _open_stream(self) -> None:
        if not self._container.streams.audio:
            raise AudioError(_no_audio_stream(self._path, self._container))
        self._stream = self._container.streams.audio[0]
        self._frames = self._decode()
        first = next(self._frames, None)
        if first is None:
            raise AudioError(f"{self._path} holds no samples that can be decoded.")
        self._first = first
        self.info = AudioInfo(
            name=str(self._path),
            container=self._container.format.name,
            codec=self._stream.codec_context.name,
            sample_rate=_checked_rate(first.sample_rate, self._path),
            num_channels=first.layout.nb_channels,
            duration_s=_stated_duration(self._stream, self._container),
        )

    def __iter__(self) -> Iterator[NDArray[np.float32]]:
        """Yield ``[channels, n]``; raise `AudioError` where the file is damaged or ends early."""
        yield from checked(self._pieces(), self.info, exact=self._length_is_exact())

    def close(self) -> None:
        """Close the file."""
        self._container.close()

    def _length_is_exact(self) -> bool:
        return self.info.container.split(",")[0] in EXACT_CONTAINERS

    def _decode(self) -> Iterator[AudioFrame]:
        """Decode all packets; junk before the first and after the last frame is passed over."""
        damaged_at: float | None = None
        seen = 0.0
        for packet in self._demux():
            try:
                frames = packet.decode()
            except FFmpegError:
                damaged_at = seen
                continue
            for frame in frames:
                if damaged_at:  # neither None nor 0.0: sound came before the damage, and after
                    raise AudioError(_damaged(self._path, damaged_at))
                seen += frame.samples / max(frame.sample_rate, 1)
                yield frame

    def _demux(self) -> Iterator[Any]:
        try:
            yield from self._container.demux(self._stream)
        except FFmpegError as e:
            raise AudioError(f"{self._path} cannot be read to its end: {e.strerror}.") from e

    def _pieces(self) -> Iterator[NDArray[np.float32]]:
        """Yield float samples in the first frame's layout, whatever a later frame changes to."""
        target = self._first
        seen, to_float = None, None
        for frame in _then(self._first, self._frames):
            if to_float is None or seen != (frame.format.name, frame.layout, frame.sample_rate):
                if to_float is not None:
                    yield from _planes(to_float.resample(None), target)
                seen = (frame.format.name, frame.layout, frame.sample_rate)
                to_float = av.AudioResampler("flt", target.layout, target.sample_rate)
            frame.pts = None
            yield from _planes(to_float.resample(frame), target)
        if to_float is not None:
            yield from _planes(to_float.resample(None), target)


def open_audio(path: str | os.PathLike[str]) -> AudioSource:
    """Open an audio file, or the sound of a video, in any format FFmpeg reads.

    Raises `AudioError` when the file is missing, empty, no media, without sound or cut short.
    """
    return FileSource(path)


def stream_speech(source: AudioSource | str | os.PathLike[str]) -> Iterator[Tensor]:
    """Yield a source, or the file of that name, as the models hear it.

    Chunks are float32 ``[n]``, mono, 16 kHz, of any length n >= 1, in constant memory.
    """
    opened = open_audio(source) if isinstance(source, str | os.PathLike) else source
    try:
        resampler = Resampler(opened.info.sample_rate)
        for samples in opened:
            yield from _nonempty(resampler.step(to_mono(samples)[None])[0])
        yield from _nonempty(resampler.flush()[0])
    finally:
        opened.close()


def read_speech(source: AudioSource | str | os.PathLike[str]) -> Tensor:
    """Return a whole source as float32 ``[n]``, mono, 16 kHz."""
    return torch.cat(list(stream_speech(source)))


def checked(
    pieces: Iterable[NDArray[np.float32]], info: AudioInfo, *, exact: bool = False
) -> Iterator[NDArray[np.float32]]:
    """Pass samples on; raise on NaN or infinity and on none at all.

    An end before the stated duration raises where the statement is ``exact``, else it is logged.
    """
    count = 0
    for piece in pieces:
        if not np.isfinite(piece).all():
            at = count + int(np.argmin(np.isfinite(piece).all(0)))
            raise AudioError(
                f"{info.name} holds NaN or infinity at sample {at}, {at / info.sample_rate:.3f} s; "
                "every sample must be a finite number. Was it written by a program that failed?"
            )
        count += piece.shape[1]
        if piece.shape[1]:
            yield piece
    if count == 0:
        raise AudioError(f"{info.name} holds no samples, so there is nothing to say.")
    seconds = count / info.sample_rate
    if info.duration_s is not None and seconds < 0.98 * info.duration_s - 0.1:
        message = _cut_short(info.name, info.duration_s, seconds)
        if exact:
            raise AudioError(message)
        _log.warning("%s", message)


def _nonempty(samples: NDArray[np.float32]) -> Iterator[Tensor]:
    if len(samples):
        yield torch.from_numpy(samples if samples.flags.writeable else samples.copy())


def _then(first: AudioFrame, rest: Iterator[AudioFrame]) -> Iterator[AudioFrame]:
    yield first
    yield from rest


def _planes(frames: list[AudioFrame], target: AudioFrame) -> Iterator[NDArray[np.float32]]:
    for frame in frames:
        packed = frame.to_ndarray().reshape(-1, target.layout.nb_channels)
        yield np.ascontiguousarray(packed.T, dtype=np.float32)


def _checked_rate(rate: int, path: Path) -> int:
    if not MIN_HZ <= rate <= MAX_HZ:
        raise AudioError(
            f"{path} says its sample rate is {rate} Hz; {MIN_HZ} to {MAX_HZ} Hz work. "
            "The header is probably damaged."
        )
    return rate


def _stated_duration(stream: Any, container: Any) -> float | None:
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    return None if container.duration is None else container.duration / av.time_base


def _check_is_readable(path: Path) -> None:
    if not path.exists():
        raise AudioError(f"There is no file {path}.")
    if path.is_dir():
        raise AudioError(f"{path} is a folder; an audio file is needed.")
    if not os.access(path, os.R_OK):
        raise AudioError(f"{path} may not be read by this user.")
    if not path.is_file():
        return  # a named pipe: reading ahead would take its bytes
    if path.stat().st_size == 0:
        raise AudioError(f"{path} is empty (0 bytes).")
    with path.open("rb") as file:
        head = file.read(12)
    stated = int.from_bytes(head[4:8], "little") + 8
    is_wav = head[:4] == b"RIFF" and head[8:] == b"WAVE"
    if is_wav and path.stat().st_size < stated < 0x7FFF_FFFF:
        raise AudioError(
            f"{path} is cut short: its header promises {stated} bytes, {path.stat().st_size} are "
            f"there. Get the whole file, or keep what there is: {_salvage(path)}"
        )


def _not_media(path: Path) -> str:
    return (
        f"{path} is not audio or video that FFmpeg can read ({path.stat().st_size} bytes), or it "
        "is cut short before its index. WAV, FLAC, MP3, M4A, OGG, Opus, MP4 and many others work."
    )


def _no_audio_stream(path: Path, container: Any) -> str:
    kinds = ", ".join(s.type for s in container.streams) or "nothing"
    return f"{path} has no sound in it; it holds: {kinds}. An audio file is needed."


def _damaged(path: Path, at_s: float) -> str:
    return f"{path} is damaged at {at_s:.2f} s. Get an intact copy, or repair it: {_salvage(path)}"


def _cut_short(name: str, stated_s: float, seconds: float) -> str:
    return (
        f"{name} is cut short: its header promises {stated_s:.2f} s, {seconds:.2f} s are there. "
        f"Get the whole file, or keep what there is: {_salvage(Path(name))}"
    )


def _salvage(path: Path) -> str:
    return shlex.join(["ffmpeg", "-i", str(path), f"{path.stem}-repaired.wav"])
