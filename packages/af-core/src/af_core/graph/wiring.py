"""How the stages of an avatar are joined: its sources, its edges, and the composite denoiser."""

import math
from collections.abc import Mapping
from pathlib import Path

import attrs

from af_core.errors import AvatarForcingError, WeightsError
from af_core.geometry import Geometry
from af_core.graph.checked import PARTS, Stage
from af_core.graph.graph import Node
from af_core.plugins.contract import ChecksPrompt, ChecksWeights, Declares, PreviewsLadder
from af_core.ports import (
    VARYING,
    Declaration,
    Format,
    Port,
    audio_samples,
    portrait_image,
    revised_rows,
)
from af_core.problems import Problem, did_you_mean
from af_core.weights.signature import kind_of, read_header

STANDARD_EDGES = {
    ("audio_encoder", "samples"): "audio.samples",
    ("image_encoder", "image"): "portrait.image",
    ("text_encoder", "prompt"): "prompt.prompt",
    ("denoiser", "rows"): "audio_encoder.rows",
    ("denoiser", "portrait"): "image_encoder.latent",
    ("denoiser", "text"): "text_encoder.embeddings",
    ("decoder", "latents"): "denoiser.latents",
}
"""Where each input comes from unless the pipeline says otherwise."""

REVISIONS = ("audio_encoder.revisions", "denoiser.revisions")
"""The edge that is there if the audio encoder hears the past better as more speech arrives."""

SOURCES = ("audio", "portrait", "prompt")
"""Names of the nodes where data enters."""


def sources(geometry: Geometry, *, text: bool = False) -> tuple[Node, ...]:
    """Return the nodes where data enters: speech, portrait, and the prompt if it is read."""
    prompt = Node("prompt", Declaration(outputs=(Port("prompt", Format("text")),)), "source")
    speech = Port("samples", audio_samples(VARYING))
    picture = Port("image", portrait_image(geometry))
    return (
        Node("audio", Declaration(outputs=(speech,)), "source"),
        Node("portrait", Declaration(outputs=(picture,)), "source"),
        *((prompt,) if text else ()),
    )


def denoiser_declaration(geometry: Geometry, stages: Mapping[str, Stage]) -> Declaration:
    """Return what the denoiser and its parts declare together.

    The block and the look-ahead are the window scheduler's; the keys and values held are those of
    the anchors and of the window, each as large as the denoiser says. Every denoiser takes revised
    features: it is the streaming algorithm that does, not the network.
    """
    own: Declaration = stages["denoiser"].config.declare(geometry)
    parts = [
        stages[kind].config.declare(geometry)
        for kind in PARTS
        if kind in stages and isinstance(stages[kind].config, Declares)
    ]
    held = sum(part.latents_held for part in parts)
    rows = own.input("rows")
    width = None if rows is None else rows.format.channels
    revisions = Port("revisions", attrs.evolve(revised_rows(), channels=width), required=False)
    return attrs.evolve(
        own,
        inputs=(*own.inputs, revisions),
        block_ms=own.block_ms + sum(part.block_ms for part in parts),
        lookahead_ms=own.lookahead_ms + sum(part.lookahead_ms for part in parts),
        bytes_per_stream=own.bytes_per_stream + held * own.bytes_per_latent,
        latents_held=held,
    )


def ladder(stages: Mapping[str, Stage], geometry: Geometry) -> list[float] | None:
    """Return the noise levels, noisiest first; None if the schedule cannot tell without torch.

    A schedule's config may have ``preview_ladder(num_rungs)``, which raises ``ConfigError`` for a
    ladder that does not fit the window.
    """
    schedule = stages["noise_schedule"].config
    num_rungs = stages["window_scheduler"].config.declare(geometry).num_rungs
    if not (isinstance(schedule, PreviewsLadder) and num_rungs):
        return None
    return schedule.preview_ladder(num_rungs)


def ladder_problems(stages: Mapping[str, Stage], geometry: Geometry) -> list[Problem]:
    """Return why the noise schedule cannot serve the window, if it cannot."""
    try:
        ladder(stages, geometry)
    except AvatarForcingError as e:
        return [Problem("bad_ladder", "noise_schedule", str(e))]
    return []


def weights_problems(stages: Mapping[str, Stage]) -> list[Problem]:
    """Return the weight files that are named but not there, or hold no weights, or are cut short.

    Only first and last bytes are looked at; whether the tensors fit is seen when they are loaded.
    """
    problems: list[Problem] = []
    for stage in stages.values():
        if isinstance(stage.config, ChecksWeights):
            path = f"{stage.name}.weights"
            problems += [Problem("bad_weights", path, f) for f in stage.config.weights_faults()]
            continue
        file = weights_file(stage)
        if file is None:
            continue
        path = f"{stage.name}.weights"
        if not file.is_file():
            near = {p.stem: p for p in file.parent.glob("*")} if file.parent.is_dir() else {}
            close = did_you_mean(file.stem, near)
            hint = str(near[close]) if close else None
            problems.append(
                Problem("no_weights", path, "The weights file is not there.", None, str(file), hint)
            )
            continue
        try:
            kind_of(file)
        except WeightsError as e:
            problems.append(Problem("bad_weights", path, str(e), "a weights file", str(file)))
    return problems


def prompt_problems(stages: Mapping[str, Stage], prompt: object) -> list[Problem]:
    """Return why the text encoder cannot encode the prompt, if it can tell."""
    stage = stages.get("text_encoder")
    if stage is None or not isinstance(stage.config, ChecksPrompt) or not isinstance(prompt, str):
        return []
    return stage.config.prompt_problems(prompt)


def weights_file(stage: Stage) -> Path | None:
    """Return the file that a stage's option ``weights`` names, if it holds them in memory."""
    if isinstance(stage.config, ChecksPrompt):
        return None
    value = getattr(stage.config, "weights", None)
    return Path(value) if isinstance(value, str) else None


def counted_parameters(file: Path) -> int | None:
    """Return the number of weights in a safetensors file, from its header alone.

    None for other files, and for one that holds adapters still to be merged: there the network's
    own count is the right one.
    """
    try:
        if kind_of(file) != "safetensors":
            return None
        entries = {n: e for n, e in read_header(file).items() if n != "__metadata__"}
        if any(".lora_" in name for name in entries):
            return None
        return sum(math.prod(entry["shape"]) for entry in entries.values())
    except (OSError, ValueError, WeightsError):
        return None
    except (KeyError, TypeError):  # JSON, but not the header of safetensors
        return None
