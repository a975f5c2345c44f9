"""What is known of an avatar from its pipeline: what drivers ask for, and who it is."""

from typing import Any

import attrs

from af_core.geometry import AUDIO_HZ, SAMPLES_PER_FRAME, VIDEO_FPS
from af_core.graph.checked import Pipeline
from af_core.graph.explain import latency
from af_core.graph.spec import PATH_OPTIONS
from af_core.snapshots.identity import configuration


@attrs.frozen
class AvatarInfo:
    """What a driver has to know about an avatar."""

    preset: str
    width: int
    """Pixels of a frame."""
    height: int
    """Pixels of a frame."""
    frames_per_block: int
    """Video frames that come out together."""
    block_ms: float
    """Speech that is gathered before it can be drawn."""
    lookahead_ms: float
    """Later speech that a block waits for."""
    delay_ms: float
    """Algorithmic delay: block and look-ahead."""
    num_parameters: int
    """Weights of all stages together."""
    fps: int = VIDEO_FPS
    sample_rate: int = AUDIO_HZ

    @property
    def samples_per_frame(self) -> int:
        """Return the samples of speech that one video frame lasts."""
        return SAMPLES_PER_FRAME


def describe(pipeline: Pipeline, num_parameters: int) -> AvatarInfo:
    """Return what a driver has to know about the avatar of a pipeline."""
    delay, made = latency(pipeline), pipeline.graph.format_of(pipeline.output)
    return AvatarInfo(
        preset=pipeline.spec.name,
        width=_size(made and made.width, pipeline.geometry.width),
        height=_size(made and made.height, pipeline.geometry.height),
        frames_per_block=pipeline.geometry.frames_per_block,
        block_ms=delay.block_ms,
        lookahead_ms=delay.lookahead_ms,
        delay_ms=delay.total_ms,
        num_parameters=num_parameters,
    )


def configuration_of(pipeline: Pipeline) -> str:
    """Return the hash of all options that change what is drawn."""
    return configuration(_options(pipeline), PATH_OPTIONS)


def _size(value: Any, fallback: int) -> int:
    return value if isinstance(value, int) else fallback


def _options(pipeline: Pipeline) -> dict[str, Any]:
    """Return all that decides what is drawn, besides weights and prompt; no paths, no places."""
    return {
        "name": pipeline.spec.name,
        "geometry": pipeline.spec.geometry,
        "precision": pipeline.spec.precision,
        "stages": {
            name: [stage.kind, stage.use, stage.config, dict(pipeline.graph.incoming(name))]
            for name, stage in sorted(pipeline.stages.items())
            if stage.kind != "text_encoder"
        },
        "output": pipeline.output,
    }
