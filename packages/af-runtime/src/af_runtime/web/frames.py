"""One frame as it travels to the page: 32 bytes of header, its sound, its picture.

| bytes | type | what |
|---|---|---|
| 0 | u8 | picture: 1 key frame of H.264, 2 other frame of H.264, 3 JPEG |
| 1 | u8 | 1 if sound follows: 640 samples int16, mono, 16 kHz |
| 2 | u16 | epoch, the lower 16 bits |
| 4 | u32 | number of the frame: its time in 1/25 s |
| 8 | f32 | ms since its sound arrived at the gateway, NaN in silence |
| 12 | 3 f32 | ms of encoder, denoiser and decoder for the latest block, NaN if not known |
| 24 | f32 | ms to pack the picture |
| 28 | u32 | frames sent in this session, this one included |

All little-endian.
"""

import struct
from enum import IntEnum

import attrs
import numpy as np
from numpy.typing import NDArray

from af_runtime.web.stages import UNKNOWN, StageTimes

HEADER = struct.Struct("<BBHI5fI")


class Kind(IntEnum):
    """How the picture is coded."""

    H264_KEY = 1
    H264 = 2
    JPEG = 3


@attrs.frozen
class Packed:
    """A picture as a browser can decode it."""

    kind: Kind
    data: bytes


@attrs.frozen(eq=False)
class Parcel:
    """All that is sent with one frame."""

    picture: Packed
    sound: NDArray[np.float32] | None
    """Float32 [640]; None in silence."""
    epoch: int
    number: int
    sent: int
    age_ms: float = float("nan")
    pack_ms: float = 0.0
    stages: StageTimes = UNKNOWN


def encode_frame(parcel: Parcel) -> bytes:
    """Return the message of one frame."""
    header = HEADER.pack(
        parcel.picture.kind,
        parcel.sound is not None,
        parcel.epoch & 0xFFFF,
        parcel.number,
        parcel.age_ms,
        *(parcel.stages.encode_ms, parcel.stages.denoise_ms, parcel.stages.decode_ms),
        parcel.pack_ms,
        parcel.sent,
    )
    sound = b"" if parcel.sound is None else _int16(parcel.sound)
    return b"".join((header, sound, parcel.picture.data))


def _int16(sound: NDArray[np.float32]) -> bytes:
    return np.rint(np.clip(sound, -1, 1) * 32767).astype("<i2").tobytes()
