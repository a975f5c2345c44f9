"""Options of wav2vec 2.0, and the shape that a checkpoint's config.json tells; no torch."""

import math
from pathlib import Path
from typing import Any, Literal

import msgspec
from af_core.errors import ConfigError
from af_core.geometry import SAMPLES_PER_FRAME, VIDEO_FPS, Geometry, ceil_div
from af_core.plugins import BuildContext
from af_core.ports import BYTES, Declaration, Port, audio_samples, feature_rows, revised_rows

CONFIG_FILE = "config.json"
WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
"""What may hold the weights of a folder, the better one first."""
SUFFIXES = (".safetensors", ".bin")
"""Endings of files with weights; what ends in anything else is a folder."""
CONV_STRIDE = SAMPLES_PER_FRAME // 2
"""Samples from one frame of the convolutions to the next (320): two frames for a video frame."""


class Wav2Vec2Shape(msgspec.Struct, frozen=True):
    """What config.json says of the network; the defaults are those of wav2vec2-base-960h."""

    model_type: str = "wav2vec2"
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    conv_dim: tuple[int, ...] = (512, 512, 512, 512, 512, 512, 512)
    conv_kernel: tuple[int, ...] = (10, 3, 3, 3, 3, 2, 2)
    conv_stride: tuple[int, ...] = (5, 2, 2, 2, 2, 2, 2)
    conv_bias: bool = False
    num_conv_pos_embeddings: int = 128
    num_conv_pos_embedding_groups: int = 16
    feat_extract_norm: str = "group"
    do_stable_layer_norm: bool = False
    add_adapter: bool = False

    @property
    def feature_dim(self) -> int:
        """Width of a row: ``[last | hs0 | hs1 | ... | last]``."""
        return (self.num_hidden_layers + 2) * self.hidden_size

    @property
    def receptive_field(self) -> int:
        """Samples that one frame of the convolutions hears (400)."""
        field, stride = 1, 1
        for kernel, step in zip(self.conv_kernel, self.conv_stride, strict=True):
            field, stride = field + (kernel - 1) * stride, stride * step
        return field

    @property
    def num_parameters(self) -> int:
        """Weights that make rows: no masking vector, no heads, no weight norm."""
        pairs = zip((1, *self.conv_dim), self.conv_dim, self.conv_kernel, strict=False)
        conv = sum(a * b * kernel + b * self.conv_bias for a, b, kernel in pairs)
        d, ffn, heard = self.hidden_size, self.intermediate_size, self.conv_dim[-1]
        projection = 2 * heard + heard * d + d
        positions = d * d // self.num_conv_pos_embedding_groups * self.num_conv_pos_embeddings + d
        layer = 4 * (d * d + d) + 2 * d * ffn + ffn + d + 4 * d
        layers = self.num_hidden_layers * layer
        return conv + 2 * self.conv_dim[0] + projection + positions + 2 * d + layers

    def faults(self) -> list[str]:
        """Return why this network cannot make rows; empty when it can."""
        sizes = {len(self.conv_dim), len(self.conv_kernel), len(self.conv_stride)}
        if len(sizes) > 1 or 0 in sizes:
            return ["conv_dim, conv_kernel and conv_stride differ in length, or are empty"]
        stride, field = math.prod(self.conv_stride), self.receptive_field
        fits = CONV_STRIDE < field <= SAMPLES_PER_FRAME
        heads, groups = self.num_attention_heads, self.num_conv_pos_embedding_groups
        positive = min(self.hidden_size, heads, groups) > 0
        divided = positive and self.hidden_size % math.lcm(heads, groups) == 0
        checks = (
            (self.model_type == "wav2vec2", f"model_type is {self.model_type!r}, not 'wav2vec2'"),
            (stride == CONV_STRIDE, f"its stride is {stride} samples, not {CONV_STRIDE}"),
            (fits, f"a frame hears {field} samples, not {CONV_STRIDE + 1} to {SAMPLES_PER_FRAME}"),
            (self.feat_extract_norm == "group", "feat_extract_norm is not 'group'"),
            (not self.do_stable_layer_norm, "do_stable_layer_norm is true"),
            (not self.add_adapter, "add_adapter is true"),
            (
                divided,
                f"hidden_size {self.hidden_size} is no multiple of its {heads} heads and of its "
                f"{groups} groups of positions",
            ),
        )
        return [fault for holds, fault in checks if not holds]


def read_shape(weights: str | None) -> Wav2Vec2Shape:
    """Return the shape of a checkpoint, or of wav2vec2-base when there is none.

    Raises ``ConfigError`` if config.json is missing or tells of another kind of network.
    """
    if weights is None:
        return Wav2Vec2Shape()
    path = config_file(weights)
    try:
        shape = msgspec.json.decode(path.read_bytes(), type=Wav2Vec2Shape)
    except OSError as e:
        raise ConfigError(
            f"No {CONFIG_FILE} can be read at {path} ({e.strerror}). The weights of wav2vec2 are a "
            f"folder in the format of Hugging Face, with {CONFIG_FILE} and {WEIGHT_FILES[0]}."
        ) from e
    except (msgspec.MsgspecError, UnicodeDecodeError) as e:
        raise ConfigError(f"{path} does not describe a wav2vec 2.0 network: {e}") from e
    if faults := shape.faults():
        raise ConfigError(
            f"{path} is of an audio model that cannot drive frames: {'; '.join(faults)}. Models "
            "with the architecture of facebook/wav2vec2-base-960h can."
        )
    return shape


def config_file(weights: str) -> Path:
    """Return where config.json lies: in the folder, or beside the file with the weights."""
    path = Path(weights)
    return (path.parent if path.suffix in SUFFIXES else path) / CONFIG_FILE


def weights_file(weights: str) -> Path:
    """Return the file with the weights: the one named, or the better one of the folder."""
    path = Path(weights)
    if path.suffix in SUFFIXES:
        return path
    there = [path / name for name in WEIGHT_FILES if (path / name).is_file()]
    return there[0] if there else path / WEIGHT_FILES[0]


class Wav2Vec2Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """wav2vec 2.0 at 25 rows a second: live, or whole utterances exactly like the release."""

    weights: str | None = None
    """Folder with config.json and model.safetensors (or pytorch_model.bin), or one of those two;
    without it, random weights in the shape of wav2vec2-base."""
    mode: Literal["streaming", "offline"] = "streaming"
    """``streaming`` hears a window that slides, ``offline`` the whole utterance at its end."""
    left_context_s: float = 8.0
    """streaming: seconds before a hop that are heard with it, those it revises included."""
    right_context_frames: int = 0
    """streaming: video frames after a hop that are heard with it, each for 40 ms of delay."""
    hop_frames: int | None = None
    """streaming: video frames of one step of the window; None takes the frames of a block."""
    revised_frames: int = 48
    """streaming: video frames before a hop whose rows are made again with it."""
    statistics: Literal["running", "window"] = "running"
    """streaming: loudness is normalised over all that was heard so far, or over the window."""
    slack_frames: int = 0
    """offline: frames of silence heard after the utterance; the release heard 80 frames more."""
    variance_floor: float = 1e-7
    """Added to the variance of the samples; silence stays silence. The release's is 1e-7."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Floating-point type of the network; rows are float32 always."""
    seed: int = 0
    """Seed of the random weights when there are none."""

    def __post_init__(self) -> None:
        """Refuse numbers that make no window."""
        counts = ("right_context_frames", "revised_frames", "slack_frames")
        for name in counts:
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; the least is 0.")
        if self.hop_frames is not None and self.hop_frames < 1:
            raise ConfigError(f"hop_frames is {self.hop_frames}; the least is 1, or null.")
        if not (math.isfinite(self.variance_floor) and self.variance_floor > 0):
            raise ConfigError(
                f"variance_floor is {self.variance_floor:g}; silence needs one above 0."
            )
        if not (math.isfinite(self.left_context_s) and self.left_context_s >= 0):
            raise ConfigError(f"left_context_s is {self.left_context_s:g}; the least is 0.")
        if self.mode == "streaming" and self.left_context_frames < self.revised_frames:
            raise ConfigError(
                f"left_context_s {self.left_context_s:g} is {self.left_context_frames} frames, "
                f"fewer than the {self.revised_frames} of revised_frames; "
                f"{self.revised_frames / VIDEO_FPS:g} seconds would do."
            )

    @property
    def left_context_frames(self) -> int:
        """Video frames heard before a hop."""
        return round(self.left_context_s * VIDEO_FPS)

    def hop(self, geometry: Geometry) -> int:
        """Return the video frames of one step of the window."""
        return geometry.frames_per_block if self.hop_frames is None else self.hop_frames

    def declare(self, geometry: Geometry) -> Declaration:
        """Return samples in, rows and revisions out, and how late the last rows of a block come.

        Rows come in hops. A block waits for the hop that its last row is in: not at all if hops
        divide blocks, and for ``hop - gcd(hop, block)`` frames at worst. ``offline`` waits for
        ever, and its memory grows by 64 kB for each second of speech.
        """
        shape, live = read_shape(self.weights), self.mode == "streaming"
        frames = self._lateness(geometry) if live else math.inf
        rows = Port("rows", feature_rows(shape.feature_dim))
        revisions = Port("revisions", revised_rows(shape.feature_dim))
        return Declaration(
            (Port("samples", audio_samples()),),
            (rows, revisions) if live and self._revises(geometry) else (rows,),
            lookahead_ms=frames * 1000 / VIDEO_FPS,
            num_parameters=shape.num_parameters,
            bytes_per_parameter=BYTES[self.dtype],
            bytes_per_stream=self._bytes_per_stream(geometry, shape) if live else 0,
            facts=self._facts(geometry, shape),
        )

    def weights_faults(self) -> list[str]:
        """Return what is wrong with the file of weights, without opening it."""
        if self.weights is None:
            return []
        file = weights_file(self.weights)
        if not file.is_file():
            return [f"{file} does not exist; {' or '.join(WEIGHT_FILES)} is read."]
        return []

    def build(self, context: BuildContext) -> Any:
        """Build the encoder and load its weights; needs the extra ``af-audio[published]``."""
        from af_audio.wav2vec2.loading import build

        return build(self, context)

    def _revises(self, geometry: Geometry) -> bool:
        """Return whether rows are made again; raise ``ConfigError`` if these fit no blocks."""
        hop, block, count = self.hop(geometry), geometry.frames_per_block, self.revised_frames
        if count and (hop != block or count % block):
            raise ConfigError(
                f"Rows are revised a block at a time, {block} frames, but hop_frames is {hop} and "
                f"revised_frames is {count}. Leave hop_frames out and make revised_frames a "
                f"multiple of {block}, or revise nothing: revised_frames: 0."
            )
        return bool(count)

    def _lateness(self, geometry: Geometry) -> int:
        hop = self.hop(geometry)
        return hop - math.gcd(hop, geometry.frames_per_block) + self.right_context_frames

    def _bytes_per_stream(self, geometry: Geometry, shape: Wav2Vec2Shape) -> int:
        ahead = self.hop(geometry) + self.right_context_frames
        samples = (self.left_context_frames + ahead) * SAMPLES_PER_FRAME
        taps = shape.conv_kernel[0]
        return 4 * samples + 8 * (2 + taps + taps * taps)

    def _facts(self, geometry: Geometry, shape: Wav2Vec2Shape) -> dict[str, str]:
        network = f"{shape.num_hidden_layers} layers of width {shape.hidden_size}"
        if self.mode == "offline":
            return {"network": network, "hears": "the whole utterance, at its end"}
        hop, left = self.hop(geometry), self.left_context_frames
        ahead = f" and {self.right_context_frames} after" if self.right_context_frames else ""
        blocks = ceil_div(self.revised_frames, hop)
        again = f"{self.revised_frames} frames ({blocks} hops)" if blocks else "none"
        return {
            "network": network,
            "hears": f"{left} frames before a hop of {hop}{ahead}; normalised by {self.statistics} "
            "statistics",
            "revises": again,
        }
