"""Raw samples from a pipe, taken while they are being spoken."""

import io
import logging
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
from af_core.geometry import AUDIO_HZ
from numpy.typing import NDArray

from af_audio.errors import AudioError
from af_audio.io import AudioInfo, checked

PCM_FORMATS = {
    "s16le": np.dtype("<i2"),
    "s16be": np.dtype(">i2"),
    "s32le": np.dtype("<i4"),
    "s32be": np.dtype(">i4"),
    "u8": np.dtype("u1"),
    "f32le": np.dtype("<f4"),
    "f32be": np.dtype(">f4"),
    "f64le": np.dtype("<f8"),
}
"""Names of the raw formats, FFmpeg's own, and how numpy calls them."""

READ_BYTES = 65_536

_log = logging.getLogger(__name__)


class PcmSource:
    """An `AudioSource` over headerless mono samples in a byte stream such as standard input."""

    def __init__(
        self,
        stream: BinaryIO,
        *,
        sample_rate: int = AUDIO_HZ,
        format: str = "s16le",
        name: str = "standard input",
    ) -> None:
        if format not in PCM_FORMATS:
            raise AudioError(
                f"There is no raw sample format {format!r}; these work: {', '.join(PCM_FORMATS)}."
            )
        self.info = AudioInfo(
            name=name,
            container="raw",
            codec=format,
            sample_rate=sample_rate,
            num_channels=1,
            duration_s=None,
            is_live=True,
        )
        self._stream = stream
        self._dtype = PCM_FORMATS[format]

    def close(self) -> None:
        """Leave the byte stream to its owner."""

    def __iter__(self) -> Iterator[NDArray[np.float32]]:
        """Yield ``[1, n]`` as soon as bytes are there; blocks while none are."""
        yield from checked(self._pieces(), self.info)

    def _pieces(self) -> Iterator[NDArray[np.float32]]:
        rest = b""
        while piece := _read_some(self._stream):
            data = rest + piece
            whole = len(data) // self._dtype.itemsize * self._dtype.itemsize
            rest = data[whole:]
            if whole:
                yield _to_float(np.frombuffer(data[:whole], self._dtype))[None]
        if rest:
            _log.warning(
                "%s ended in the middle of a sample: %d byte(s) of %d were left over and not used."
                " Is it really %s?",
                *(self.info.name, len(rest), self._dtype.itemsize, self.info.codec),
            )


def _read_some(stream: BinaryIO) -> bytes:
    """Return what is there, without waiting for a full buffer; b"" at the end."""
    if isinstance(stream, io.BufferedReader | io.BytesIO):
        return stream.read1(READ_BYTES)
    return stream.read(READ_BYTES)


def _to_float(samples: NDArray) -> NDArray[np.float32]:
    if samples.dtype.kind == "u":
        return (samples.astype(np.float32) - np.float32(128)) / np.float32(128)
    if samples.dtype.kind == "i":
        return samples.astype(np.float32) / np.float32(2 ** (8 * samples.dtype.itemsize - 1))
    return samples.astype(np.float32)
