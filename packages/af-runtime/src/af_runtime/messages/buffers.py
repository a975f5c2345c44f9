"""Raw buffers behind a header: what each holds, how large it may be, and numpy views of them."""

import math
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from af_core.geometry import AUDIO_HZ, SAMPLES_PER_FRAME
from msgspec import Meta
from numpy.typing import NDArray

from af_runtime.errors import ProtocolError
from af_runtime.messages.codes import Code

MAX_PCM_SAMPLES = 10 * AUDIO_HZ
"""Samples of one AUDIO message at most (10 s)."""

MAX_SIDE = 4096
"""Pixels of a picture along a side at most."""

MAX_SNAPSHOT_BYTES = 60 * 2**20
"""Bytes of a session that moves at most."""

Kind = Literal["portrait", "pcm", "video", "audio", "snapshot"]
Dtype = Literal["u8", "f32", "i16"]
DTYPES: dict[Dtype, np.dtype[Any]] = {
    "u8": np.dtype("u1"),
    "f32": np.dtype("<f4"),
    "i16": np.dtype("<i2"),
}
LIMITS: dict[str, tuple[frozenset[str], int]] = {
    "portrait": (frozenset({"u8"}), 3),
    "video": (frozenset({"u8"}), 3),
    "pcm": (frozenset({"f32", "i16"}), 1),
    "audio": (frozenset({"f32"}), 1),
    "snapshot": (frozenset({"u8"}), 1),
}
"""Element types, and number of axes, of each kind of buffer."""


class Buffer(msgspec.Struct, frozen=True, kw_only=True):
    """Describes one buffer that follows the header: little-endian, C order, no gaps."""

    kind: Kind
    """``portrait``, ``video``: [height, width, 3] RGB. ``pcm``: [n]. ``audio``: [640].
    ``snapshot``: [n] bytes."""
    dtype: Dtype
    """Type of one element: bytes, floats in [-1, 1], or 16-bit integers."""
    shape: Annotated[tuple[Annotated[int, Meta(ge=1, le=2**31)], ...], Meta(max_length=4)]
    """Length of each axis."""


def described(kind: Kind, array: NDArray[np.generic]) -> Buffer:
    """Return the description of an array that is to be sent."""
    names: dict[Any, Dtype] = {known: name for name, known in DTYPES.items()}
    return Buffer(kind=kind, dtype=names[array.dtype], shape=tuple(array.shape))


def view(buffer: Buffer, data: bytes | memoryview) -> NDArray[np.generic]:
    """Return a buffer as a read-only view of its bytes, checked; 16-bit samples as float32 copy.

    Raises `ProtocolError`: ``proto.too_large`` before anything is allocated, ``media.format`` for
    what the kind does not allow and for NaN or infinity.
    """
    _require_fits(buffer)
    dtype = DTYPES[buffer.dtype]
    expected = math.prod(buffer.shape) * dtype.itemsize
    if len(data) != expected:
        raise ProtocolError(
            Code.BAD_MESSAGE,
            f"A {buffer.kind} buffer of shape {list(buffer.shape)} has {expected} bytes, "
            f"but {len(data)} came.",
        )
    values = np.frombuffer(data, dtype).reshape(buffer.shape)
    if buffer.dtype == "i16":
        return values.astype(np.float32) / np.float32(32768)
    if buffer.dtype == "f32" and not np.isfinite(values).all():
        raise ProtocolError(
            Code.MEDIA_FORMAT, "The samples hold NaN or infinity; replace them with silence."
        )
    return values


def _require_fits(buffer: Buffer) -> None:
    dtypes, num_axes = LIMITS[buffer.kind]
    if buffer.dtype not in dtypes or len(buffer.shape) != num_axes:
        raise ProtocolError(
            Code.MEDIA_FORMAT,
            f"A {buffer.kind} buffer has {num_axes} axes of {' or '.join(sorted(dtypes))}; "
            f"this one is {buffer.dtype} {list(buffer.shape)}.",
        )
    if not _is_within_limits(buffer.kind, buffer.shape):
        raise ProtocolError(
            Code.TOO_LARGE,
            f"A {buffer.kind} buffer of shape {list(buffer.shape)} is beyond the limits: "
            f"{MAX_PCM_SAMPLES} samples, {MAX_SIDE} pixels along a side with 3 colours each, "
            f"{SAMPLES_PER_FRAME} samples with a frame, {MAX_SNAPSHOT_BYTES} bytes of a session.",
        )


def _is_within_limits(kind: str, shape: Sequence[int]) -> bool:
    if kind == "pcm":
        return shape[0] <= MAX_PCM_SAMPLES
    if kind == "snapshot":
        return shape[0] <= MAX_SNAPSHOT_BYTES
    if kind == "audio":
        return shape[0] == SAMPLES_PER_FRAME
    return max(shape[:2]) <= MAX_SIDE and shape[2] == 3
