"""Builds the stages of a checked pipeline, in order, and the runners that drive them."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from af_core.capacity import require_memory
from af_core.errors import PipelineError
from af_core.graph.checked import PARTS, Pipeline
from af_core.graph.placement import AT_OPEN, in_process_problems, working_processes
from af_core.plugins.contract import BuildContext
from af_core.plugins.kinds import KINDS
from af_core.problems import Problem
from af_core.running import (
    DecodeRunner,
    DenoiseRunner,
    HearRunner,
    NodeRunner,
    ReviseRunner,
    Runner,
)
from af_core.stages.anchor_cache import RoughensContext
from af_core.stages.audio_encoder import RevisingAudioEncoder
from af_core.stages.window_scheduler import AdmitsUnheard
from af_core.streaming import Streamer


@attrs.frozen
class Assembled:
    """The built stages of a pipeline, or of those of its nodes that run in one process."""

    image_encoder: Any
    """None if it is in another process."""
    text: Tensor | None
    """Embedding of the prompt [1, token, d], for networks that take text."""
    runners: Mapping[str, Runner]
    wires: Mapping[str, Mapping[str, str]]
    num_parameters: int
    device: str
    modules: tuple[nn.Module, ...]
    """The stages that have weights."""


def assemble(pipeline: Pipeline) -> Assembled:
    """Build every stage once; raise ``PipelineError`` if this process cannot run the placement."""
    processes = working_processes(pipeline)
    if problems := in_process_problems(processes):
        raise PipelineError(problems)
    (process,) = processes
    return assemble_process(pipeline, process)


def assemble_process(pipeline: Pipeline, process: str) -> Assembled:
    """Build the stages of the nodes that run in one process of the placement, and no other."""
    device, nodes = pipeline.processes[process]
    require_device(device)
    require_memory(pipeline, device, nodes)
    built = build_stages(pipeline, device, nodes)
    names = [name for node in pipeline.graph.order() if (name := node.name) in nodes]
    names = [name for name in names if name not in AT_OPEN]
    return Assembled(
        image_encoder=built.get("image_encoder"),
        text=built["text_encoder"].encode([pipeline.spec.prompt])
        if "text_encoder" in built
        else None,
        runners={name: _runner(name, built, pipeline) for name in names},
        wires={name: pipeline.graph.incoming(name) for name in names},
        num_parameters=count_parameters(list(built.values())),
        device=device,
        modules=tuple(stage for stage in built.values() if isinstance(stage, nn.Module)),
    )


def build_stages(
    pipeline: Pipeline, device: str, nodes: Collection[str] | None = None
) -> dict[str, Any]:
    """Build the stages of some nodes, or of all; each sees those built before it.

    The order is that of ``KINDS``.
    """
    order = [kind.name for kind in KINDS]
    wanted = {*pipeline.stages} if nodes is None else {*nodes}
    wanted |= {*PARTS} if "denoiser" in wanted else set()
    stages = [stage for name, stage in pipeline.stages.items() if name in wanted]
    built: dict[str, Any] = {}
    for stage in sorted(stages, key=lambda stage: order.index(stage.kind)):
        context = BuildContext(
            geometry=pipeline.geometry,
            directory=Path(pipeline.origin).parent,
            device=device,
            precision=pipeline.spec.precision,
            stages=dict(built),
        )
        built[stage.name] = stage.config.build(context)
    return built


def require_device(device: str) -> None:
    """Raise ``PipelineError`` if torch cannot use this device here."""
    kind, index = torch.device(device).type, torch.device(device).index or 0
    cuda = [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    mps = ["mps"] if torch.backends.mps.is_available() else []
    if kind == "cpu" or (kind == "mps" and mps) or (kind == "cuda" and index < len(cuda)):
        return
    text = "This machine has no such device, or the installed torch cannot use it."
    there = ", ".join(["cpu", *cuda, *mps])
    raise PipelineError([Problem("no_device", "placement", text, f"one of: {there}", device)])


def count_parameters(stages: list[Any]) -> int:
    """Return the number of weights of the stages that are modules, shared ones once."""
    seen = {
        id(weight): weight.numel()
        for stage in stages
        if isinstance(stage, nn.Module)
        for weight in stage.parameters()
    }
    return sum(seen.values())


def _runner(name: str, built: Mapping[str, Any], pipeline: Pipeline) -> Runner:
    if name == "audio_encoder":
        revises = isinstance(built[name], RevisingAudioEncoder)
        return ReviseRunner(built[name]) if revises else HearRunner(built[name])
    if name == "denoiser":
        return DenoiseRunner(_streamer(built, pipeline.geometry.block_latents), pipeline.geometry)
    if name == "decoder":
        return DecodeRunner(built[name], pipeline.geometry.block_latents)
    return NodeRunner(built[name])


def _streamer(built: Mapping[str, Any], block_latents: int) -> Streamer[Any]:
    scheduler, cache = built["window_scheduler"], built["anchor_cache"]
    return Streamer(
        scheduler,
        built["denoiser"],
        cache,
        block_latents,
        context_noise=cache.context_noise if isinstance(cache, RoughensContext) else 0.0,
        unheard=scheduler.num_unheard if isinstance(scheduler, AdmitsUnheard) else 0,
    )
