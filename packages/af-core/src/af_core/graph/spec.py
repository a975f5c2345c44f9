"""What a pipeline file says, as Structs; unknown keys are refused."""

import re
from typing import Any, Literal

import msgspec

SCHEMA_VERSION = 1
"""Version of the pipeline file; it changes when a key changes its meaning."""

STAGE_KEYS = (
    "audio_encoder",
    "image_encoder",
    "text_encoder",
    "noise_schedule",
    "window_scheduler",
    "anchor_cache",
    "denoiser",
    "decoder",
)
"""Top-level keys that name a stage; each is also the kind it is looked up under."""

WEIGHTS_DIR = "weights_dir"
"""Key of the folder that is named last, when a pipeline is used."""

IN_WEIGHTS_DIR = "@/"
"""How a path begins that starts in that folder."""

PATH_OPTIONS = ("weights", "file", "tokenizer", "prompt_cache")
"""Options of stages that are paths, relative to the file they are written in."""

DEFAULT_OUTPUT = "decoder.frames"
"""What an avatar emits unless the pipeline names something else."""

DEVICE = re.compile(r"cpu|mps|cuda(:\d+)?")


class GeometrySpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Sizes of the video and of its blocks."""

    height: int
    """Pixels."""
    width: int
    """Pixels."""
    block_latents: int
    """B: latent frames per block."""
    spatial_stride: int = 8
    """Pixels per latent cell along each side."""
    patch: int = 2
    """Latent cells per token along each side."""


class ProcessSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One process of the placement."""

    nodes: tuple[str, ...] = ()
    """Names of the nodes that run in it."""
    device: str = "cpu"
    """Device of its weights: ``cpu``, ``cuda``, ``cuda:N`` or ``mps``."""

    def __post_init__(self) -> None:
        """Refuse a device that torch would not know."""
        if not DEVICE.fullmatch(self.device):
            raise ValueError(f"device {self.device!r} is none of cpu, cuda, cuda:N, mps.")


class PipelineSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A pipeline file. A stage is a table with ``use`` (its name), its options and ``inputs``."""

    schema_version: Literal[1]
    """Version of this file format."""
    name: str
    """How the pipeline is called in messages and results."""
    geometry: GeometrySpec
    """Sizes of the video and of its blocks."""
    audio_encoder: dict[str, Any]
    """Speech to feature rows."""
    image_encoder: dict[str, Any]
    """Portrait to latent."""
    noise_schedule: dict[str, Any]
    """The ladder of noise levels."""
    window_scheduler: dict[str, Any]
    """Which blocks are denoised together."""
    anchor_cache: dict[str, Any]
    """What the denoiser remembers."""
    denoiser: dict[str, Any]
    """The network."""
    decoder: dict[str, Any]
    """Latents to frames."""
    text_encoder: dict[str, Any] | None = None
    """Prompt to embeddings, for denoisers that take text."""
    prompt: str = ""
    """What the text encoder reads, once per stream."""
    description: str = ""
    """One line for lists of presets."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Floating-point type of the denoiser."""
    weights_dir: str | None = None
    """Folder in which paths that begin with ``@/`` start, as `af-runtime download` fills it."""
    nodes: dict[str, dict[str, Any]] = {}
    """Nodes of your own, by name."""
    output: str = DEFAULT_OUTPUT
    """The output, written ``node.port``, that the avatar emits."""
    placement: dict[str, ProcessSpec] = {}
    """Processes by name; nodes that none of them lists run in ``main`` on the CPU."""
