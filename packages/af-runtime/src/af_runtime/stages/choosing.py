"""How a worker shall run its pipeline: in this process, or in several."""

from collections.abc import Callable, Mapping
from typing import Any, Literal

import attrs
import msgspec
from af_core.graph.placement import working_processes
from af_core.pipeline import Avatar, build

from af_runtime.stages.running import StageOptions, run_stages
from af_runtime.stages.source import PipelineSource
from af_runtime.stages.staged import Staged

Placement = Literal["file", "one", "stages"]
"""As the pipeline says; all in one process; hearing, denoising and showing in one each."""

BLOCKS_A_SESSION = 4
"""Blocks of pixels that a session may hold: drawn, about to be sent, shown, and one more."""

KERNEL = "sdpa"
"""The attention kernel of stages on a CPU: a race in every new process might end differently."""


@attrs.frozen
class Plan:
    """A pipeline and how it is run."""

    source: PipelineSource
    is_staged: bool

    def load(self, options: StageOptions) -> Avatar | Staged:
        """Load the pipeline, here or in processes of its own."""
        return run_stages(self.source, options) if self.is_staged else build(self.source.open())


def plan(name: str, overrides: Mapping[str, Any], placement: Placement = "file") -> Plan:
    """Return how to run a preset or a pipeline file."""
    source = PipelineSource(name=name, overrides=_plain(overrides))
    if placement == "one":
        return Plan(msgspec.structs.replace(source, placement={}), False)
    if placement == "stages":
        source = source.in_three_stages()
    pipeline = source.open()
    processes = working_processes(pipeline)
    if len(processes) < 2:
        return Plan(source, False)
    device = next(device for device, nodes in processes.values() if "denoiser" in nodes)
    races = getattr(pipeline.stages["denoiser"].config, "attention", "") == "auto"
    if device == "cpu" and races:
        chosen = {**source.overrides, "denoiser.attention": KERNEL}
        source = msgspec.structs.replace(source, overrides=chosen)
    return Plan(source, True)


def loader(plan: Plan, *, threads: int, max_sessions: int) -> Callable[[], Avatar | Staged]:
    """Return the function that loads a plan for a worker with so many sessions."""
    blocks = BLOCKS_A_SESSION * (max_sessions + 1)
    options = StageOptions(threads=threads, ring_blocks=max(8, blocks))
    return lambda: plan.load(options)


def _plain(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return overrides as values that another process can be told."""
    return msgspec.json.decode(msgspec.json.encode(dict(overrides)))
