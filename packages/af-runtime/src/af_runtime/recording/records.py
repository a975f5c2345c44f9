"""What a recording holds: a head, and then what happened to one session, in order.

Speech is kept once, as the avatar heard it, block by block; messages without their buffers. Of a
picture there is its digest, and pixels only if they were asked for.
"""

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from af_runtime.errors import ProtocolError, RecordingError
from af_runtime.messages.buffers import DTYPES, Buffer, described, view
from af_runtime.messages.fields import LatePolicy, Pacing
from af_runtime.messages.from_client import InSession
from af_runtime.messages.from_server import ToSession
from af_runtime.recording.framing import RecordReader

SCHEMA = "afrec/1"
DIGEST_BYTES = 8
"""Bytes of BLAKE2b that stand for a picture."""

Fields = dict[str, str]


class Record(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", omit_defaults=True):
    """Base of all records."""

    time_us: int = 0
    """Microseconds since the session was opened, by the worker's clock."""
    buffers: tuple[Buffer, ...] = ()
    """What each buffer after the header holds."""


class Head(Record, frozen=True, kw_only=True, tag="HEAD"):
    """The first record: all that is needed to open the same stream; a ``portrait`` buffer."""

    schema: Literal["afrec/1"] = SCHEMA
    utc: str
    """When the session was opened, ISO 8601."""
    session: str
    """Name that the client gave it."""
    pipeline: str
    """Preset or pipeline file, as the worker was told."""
    overrides: dict[str, Any] = {}
    """What was set on top of it."""
    config: Fields
    """Everything that decides the pictures: options by ``stage.option``, files by digest."""
    config_hash: str
    """SHA-256 of ``config``."""
    machine: Fields
    """What may change the rounding: processor, threads, versions of libraries."""
    seed: int
    """Seed of the noise."""
    pacing: Pacing
    """As the client asked."""
    late_policy: LatePolicy
    """As the client asked."""
    has_pixels: bool = False
    """Whether DRAWN carries the pictures."""


class Heard(Record, frozen=True, kw_only=True, tag="HEARD"):
    """A message of the client, without its buffers."""

    message: InSession
    num_samples: int = 0
    """Samples of speech that came with it."""


class Fed(Record, frozen=True, kw_only=True, tag="FED"):
    """A block of speech went to the avatar: a ``pcm`` buffer, none if it was empty."""

    is_last: bool = False
    """Whether the avatar was told that nothing more comes."""
    is_underrun: bool = False
    """Whether silence had to be put in where speech was due."""


class Drawn(Record, frozen=True, kw_only=True, tag="DRAWN"):
    """The avatar has answered a block."""

    num_frames: int
    """Pictures that it drew, numbered on from those before."""
    digests: bytes
    """`digest` of each picture, one after another."""
    seconds: float
    """How long drawing took."""
    stages: dict[str, float] = {}
    """Seconds by stage."""


class Forgot(Record, frozen=True, kw_only=True, tag="FORGOT"):
    """The avatar has forgotten speech whose pictures had not come out: an interruption."""

    num_owed: int
    """Pictures that come out all the same."""


class Sent(Record, frozen=True, kw_only=True, tag="SENT"):
    """A message to the client, without its buffers."""

    message: ToSession
    frame: Annotated[int, Meta(ge=-1)] = -1
    """Number of the drawn picture that MEDIA shows, or keeps back if it is late; -1 for none."""


class End(Record, frozen=True, kw_only=True, tag="END"):
    """The session has ended, and the recording with it."""

    reason: str
    """As CLOSED told the client."""


AnyRecord = Head | Heard | Fed | Drawn | Forgot | Sent | End
Entry = tuple[AnyRecord, dict[str, NDArray[Any]]]
"""A record and its buffers by kind; DRAWN's pictures are of the kind ``video``, [n H, W, 3]."""

_decode = msgspec.msgpack.Decoder(AnyRecord).decode


def digest(picture: NDArray[np.uint8]) -> bytes:
    """Return the digest of one picture [H, W, 3]."""
    pixels = np.ascontiguousarray(picture)
    return hashlib.blake2b(pixels.data, digest_size=DIGEST_BYTES).digest()


def encoded(
    record: Record, arrays: Mapping[str, NDArray[Any]]
) -> tuple[bytes, Sequence[memoryview]]:
    """Return the header and the buffers of a record; empty arrays are left out."""
    kept: dict[Any, NDArray[Any]] = {kind: array for kind, array in arrays.items() if array.size}
    specs = tuple(described(kind, array) for kind, array in kept.items())
    header = msgspec.msgpack.encode(msgspec.structs.replace(record, buffers=specs))
    return header, [np.ascontiguousarray(array).data.cast("B") for array in kept.values()]


class Recording:
    """A file of one session, read from its beginning as often as it is iterated."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._reader = RecordReader(path)
        first = next(iter(self), None)
        if first is None or not isinstance(first[0], Head) or "portrait" not in first[1]:
            raise RecordingError(
                f"{path} has no head: the worker that wrote it stopped before it had begun."
            )
        self.head = first[0]
        self.portrait: NDArray[np.uint8] = first[1]["portrait"]
        """Uint8 [H, W, 3]."""

    @property
    def num_lost_bytes(self) -> int:
        """Bytes at the end that are no whole record; known after iterating to the end."""
        return self._reader.num_lost_bytes

    def __iter__(self) -> Iterator[Entry]:
        """Yield every record and its buffers."""
        for header, data in self._reader:
            try:
                record = _decode(header)
                yield record, _arrays(record, data)
            except (msgspec.MsgspecError, ValueError, ProtocolError) as e:
                raise RecordingError(
                    f"{self.path} holds a record that this version cannot read: {e}"
                ) from e


def _arrays(record: Record, data: memoryview) -> dict[str, NDArray[Any]]:
    arrays: dict[str, NDArray[Any]] = {}
    for spec in record.buffers:
        size = math.prod(spec.shape) * DTYPES[spec.dtype].itemsize
        part, data = data[:size], data[size:]
        pictures = np.frombuffer(part, np.uint8) if spec.kind == "video" else None
        arrays[spec.kind] = view(spec, part) if pictures is None else pictures.reshape(spec.shape)
    return arrays
