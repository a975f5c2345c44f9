"""A checked pipeline: the graph, the options of every stage, and nothing that is loaded."""

from collections.abc import Mapping
from typing import Any

import attrs

from af_core.geometry import Geometry
from af_core.graph.graph import Graph, Node
from af_core.graph.spec import PipelineSpec

PARTS = ("noise_schedule", "window_scheduler", "anchor_cache")
"""Stages that work inside the node ``denoiser``: together they are the streaming algorithm."""


@attrs.frozen
class Stage:
    """One stage of a pipeline: its options and who provides it."""

    name: str
    """Name of the node, or the kind for a part of the denoiser."""
    kind: str
    config: Any
    """The options, as the Struct that was registered."""
    use: str = ""
    provider: str = "this program"
    version: str = ""
    inputs: Mapping[str, str] = attrs.field(factory=dict)
    """Where inputs come from when it is not the standard place: port -> ``node.port``."""

    @property
    def label(self) -> str:
        """Return ``kind/name``."""
        return f"{self.kind}/{self.use}"


@attrs.frozen
class Pipeline:
    """A pipeline whose every name, option, edge and placement has been checked."""

    spec: PipelineSpec
    geometry: Geometry
    graph: Graph
    stages: Mapping[str, Stage]
    """By node name; the parts of the denoiser by kind."""
    origin: str = ""
    """The file it was read from."""
    provider: str = ""
    """Distribution of the preset."""
    output: str = attrs.field(default=attrs.Factory(lambda self: self.spec.output, takes_self=True))
    """What the avatar emits, as ``node.port``."""

    def with_node(
        self, name: str, config: Any, inputs: Mapping[str, str], *, output: str | None = None
    ) -> "Pipeline":
        """Return the pipeline with a node of your own.

        ``inputs`` maps the node's ports to outputs such as ``decoder.frames``; ``output`` names
        the port of the new node that the avatar shall emit from now on. Edges are checked here;
        ``PipelineConnectError`` shows both sides and the line to write instead.
        """
        label = f"node/{type(config).__name__}"
        graph = attrs.evolve(self.graph, style="python")
        graph = graph.add(Node(name, config.declare(self.geometry), label, "this program"))
        for port, source in inputs.items():
            graph = graph.connect(source, f"{name}.{port}")
        stage = Stage(name, "node", config, type(config).__name__, inputs=dict(inputs))
        return attrs.evolve(
            self,
            graph=graph,
            stages={**self.stages, name: stage},
            output=self.output if output is None else f"{name}.{output}",
        )

    @property
    def processes(self) -> dict[str, tuple[str, list[str]]]:
        """Return what runs where: process -> (device, nodes); the unplaced run in ``main``."""
        placed = {name: (p.device, list(p.nodes)) for name, p in self.spec.placement.items()}
        taken = {node for _, nodes in placed.values() for node in nodes}
        rest = [node.name for node in self.graph.nodes if node.name not in taken]
        if rest:
            device, nodes = placed.get("main", ("cpu", []))
            placed["main"] = (device, [*nodes, *rest])
        return placed
