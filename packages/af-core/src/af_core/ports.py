"""The formats that travel along the edges of a pipeline, and whether two of them fit.

A format is a set of promises about what one edge carries. An output says what it makes, an input
what it takes; a field that is ``None`` promises or demands nothing, and an input may list several
accepted values as a tuple. Nothing here touches a tensor, so a pipeline is checked without torch.
"""

from collections.abc import Mapping
from typing import Any

import attrs

from af_core.geometry import AUDIO_HZ, TEMPORAL_STRIDE, VIDEO_FPS, Geometry

Value = int | float | str
Accepts = Value | tuple[Value, ...] | None

BYTES = {"float32": 4, "bfloat16": 2}
"""Bytes of one number, by torch's name of its type."""
VARYING = "any"
"""The ``chunk`` of an output that hands over a different number of items each time."""


@attrs.frozen
class Format:
    """What travels on one edge; the leading axis of streams is never mentioned."""

    media: str
    """Kind of content: audio, features, image, embeddings, latents, frames, events, or your own."""
    rate_hz: Accepts = None
    """Items per second: 16000 for samples, 25 for frames and feature rows, 6.25 for latents."""
    dtype: Accepts = None
    """Element type by torch's name, such as ``float32`` or ``uint8``."""
    layout: Accepts = None
    """Axes in order, such as ``THWC``."""
    channels: Accepts = None
    """Size of the channel axis: latent channels, feature width, 3 for RGB."""
    height: Accepts = None
    """Size of the H axis, in its own units (pixels or latent cells)."""
    width: Accepts = None
    """Size of the W axis, in its own units (pixels or latent cells)."""
    chunk: Accepts = None
    """Items handed over at a time; an output that varies says ``VARYING``."""

    def __str__(self) -> str:
        """Return the format in words, such as ``frames uint8 THWC 256x256x3 25 Hz``."""
        return describe(self)


@attrs.frozen
class Port:
    """A named place where an edge can end or begin."""

    name: str
    format: Format
    required: bool = True
    """An input that must be connected; outputs ignore it."""
    max_delay_ms: float | None = None
    """An input's limit on the algorithmic delay of what arrives; None takes any."""


@attrs.frozen
class Declaration:
    """What a stage tells about itself before it is built."""

    inputs: tuple[Port, ...] = ()
    outputs: tuple[Port, ...] = ()
    block_ms: float = 0.0
    """Time the stage waits to gather one unit of work."""
    lookahead_ms: float = 0.0
    """Future input, beyond the unit itself, that it needs before its output is final."""
    num_parameters: int | None = None
    """Weights, if they can be counted without building."""
    bytes_per_parameter: int = 4
    """Bytes of one weight as it is held in memory (for denoisers, the pipeline's precision)."""
    bytes_per_stream: int = 0
    """Memory that one open stream holds."""
    latents_held: int = 0
    """Latent frames whose keys and values this stage keeps (anchor caches, window schedulers)."""
    bytes_per_latent: int = 0
    """Bytes of keys and values for one latent frame (denoisers)."""
    num_rungs: int = 0
    """Rungs that the ladder of noise levels must have (window schedulers)."""
    facts: Mapping[str, Any] = attrs.field(factory=dict)
    """Settings worth showing, in words: ``{"window": "4 blocks", "ladder": [1.0, 0.5]}``."""

    def input(self, name: str) -> Port | None:
        """Return the input port of that name."""
        return next((port for port in self.inputs if port.name == name), None)

    def output(self, name: str) -> Port | None:
        """Return the output port of that name."""
        return next((port for port in self.outputs if port.name == name), None)


@attrs.frozen
class Mismatch:
    """One field on which two formats disagree."""

    field: str
    expected: str
    got: str


def mismatches(made: Format, taken: Format) -> list[Mismatch]:
    """Return the fields on which an output does not satisfy an input; empty when it fits."""
    return [
        Mismatch(name, _text(want), _text(have))
        for name, have, want in _pairs(made, taken)
        if _meet(have, want) == ()
    ]


def intersection(made: Format, taken: Format) -> dict[str, str]:
    """Return, for the fields that both sides mention and agree on, the common value."""
    return {
        name: _text(_meet(have, want))
        for name, have, want in _pairs(made, taken)
        if have is not None and want is not None and _meet(have, want) != ()
    }


def describe(format: Format) -> str:
    """Return the format as one short line."""
    size = "x".join(
        _text(part) for part in (format.height, format.width, format.channels) if part is not None
    )
    parts = [format.media, _text(format.dtype), _text(format.layout), size]
    if format.rate_hz is not None:
        parts.append(f"{_text(format.rate_hz)} Hz")
    if format.chunk is not None:
        any_size = format.chunk == VARYING
        parts.append("in any chunks" if any_size else f"{_text(format.chunk)} at once")
    return " ".join(part for part in parts if part)


def _pairs(made: Format, taken: Format) -> list[tuple[str, Accepts, Accepts]]:
    names = [field.name for field in attrs.fields(Format)]
    return [(name, getattr(made, name), getattr(taken, name)) for name in names]


def _meet(have: Accepts, want: Accepts) -> Accepts:
    """Return what both sides allow, None for anything, ``()`` for nothing."""
    if have is None or want is None:
        return want if have is None else have
    common = tuple(value for value in _alternatives(have) if value in _alternatives(want))
    return common[0] if len(common) == 1 else common


def _alternatives(value: Accepts) -> tuple[Value, ...]:
    if value is None:
        return ()
    return value if isinstance(value, tuple) else (value,)


def _text(value: Accepts) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return (
        " or ".join(_text(v) for v in _alternatives(value))
        if isinstance(value, tuple)
        else str(value if value is not None else "")
    )


def audio_samples(chunk: Accepts = None) -> Format:
    """Return the format of speech: 16 kHz mono float32 in [-1, 1]."""
    return Format("audio", AUDIO_HZ, "float32", "T", chunk=chunk)


def feature_rows(width: int | None = None) -> Format:
    """Return the format of audio features, one row per video frame."""
    return Format("features", VIDEO_FPS, "float32", "TD", channels=width)


def revised_rows(width: int | None = None) -> Format:
    """Return the format of newer features of the video frames before each block."""
    return Format("features", None, "float32", "BTD", channels=width)


def portrait_image(geometry: Geometry) -> Format:
    """Return the format of one RGB picture of the video's size."""
    return Format("image", None, "uint8", "HWC", 3, geometry.height, geometry.width)


def video_frames(geometry: Geometry, scale: int = 1, chunk: Accepts = None) -> Format:
    """Return the format of RGB frames, ``scale`` times the pipeline's size."""
    size = (geometry.height * scale, geometry.width * scale)
    return Format("frames", VIDEO_FPS, "uint8", "THWC", 3, *size, chunk)


def latent_frames(geometry: Geometry, channels: int | None, chunk: Accepts = None) -> Format:
    """Return the format of normalised latents of the pipeline's grid."""
    size = (geometry.latent_height, geometry.latent_width)
    rate = VIDEO_FPS / TEMPORAL_STRIDE
    return Format("latents", rate, "float32", "TCHW", channels, *size, chunk)


def portrait_latent(geometry: Geometry, channels: int | None) -> Format:
    """Return the format of the portrait's latent: one latent frame, once per stream."""
    size = (geometry.latent_height, geometry.latent_width)
    return Format("latents", None, "float32", "TCHW", channels, *size, 1)


def text_rows(width: int | None = None) -> Format:
    """Return the format of a prompt's embedding, once per stream."""
    return Format("embeddings", None, "float32", "TD", channels=width)
