"""Tells what a pipeline will do before any weight is loaded: formats, delay, memory, processes."""

from typing import Any

import msgspec

from af_core.geometry import SAMPLES_PER_FRAME, VIDEO_FPS
from af_core.graph.checked import PARTS, Pipeline, Stage
from af_core.graph.graph import Graph, Node
from af_core.graph.wiring import counted_parameters, ladder, weights_file
from af_core.plugins.contract import Declares
from af_core.ports import BYTES


class PartReport(msgspec.Struct, frozen=True):
    """A stage that works inside a node."""

    kind: str
    use: str
    provider: str
    version: str
    options: dict[str, Any]
    facts: dict[str, Any]


class NodeReport(msgspec.Struct, frozen=True):
    """One node of the graph."""

    name: str
    stage: str
    provider: str
    version: str
    process: str
    device: str
    block_ms: float
    lookahead_ms: float
    delay_ms: float
    """Algorithmic delay at its output: all blocks and look-aheads up to here."""
    num_parameters: int | None
    weights_bytes: int | None
    stream_bytes: int
    options: dict[str, Any]
    facts: dict[str, Any]
    parts: list[PartReport]


class EdgeReport(msgspec.Struct, frozen=True):
    """One edge and what travels on it."""

    source: str
    target: str
    media: str
    format: str


class LatencyReport(msgspec.Struct, frozen=True):
    """Algorithmic latency: what would remain on an infinitely fast machine."""

    block_ms: float
    """A block must be heard before it can be drawn."""
    lookahead_ms: float
    """Future speech that a block waits for."""
    total_ms: float


class MemoryReport(msgspec.Struct, frozen=True):
    """An estimate, without activations."""

    weights_bytes: int
    stream_bytes: int
    """Per open stream."""
    unknown: list[str]
    """Nodes whose weights could not be counted without building them."""


class Explanation(msgspec.Struct, frozen=True):
    """Everything ``af-runtime explain`` shows; ``--json`` prints exactly this."""

    schema_version: int
    name: str
    description: str
    origin: str
    provider: str
    width: int
    height: int
    fps: int
    frames_per_block: int
    samples_per_block: int
    tokens_per_block: int
    latency: LatencyReport
    memory: MemoryReport
    window: dict[str, Any]
    """Settings of the streaming algorithm: block, window, passes, ladder, anchors."""
    nodes: list[NodeReport]
    edges: list[EdgeReport]
    output: str
    processes: dict[str, dict[str, Any]]


def explain(pipeline: Pipeline) -> Explanation:
    """Return the explanation of a checked pipeline; nothing is built."""
    geometry, graph = pipeline.geometry, pipeline.graph
    nodes = [_node(pipeline, node) for node in graph.order()]
    block_tokens = geometry.tokens_per_latent * geometry.block_latents
    processes = pipeline.processes.items()
    return Explanation(
        schema_version=1,
        name=pipeline.spec.name,
        description=pipeline.spec.description,
        origin=pipeline.origin,
        provider=pipeline.provider,
        width=geometry.width,
        height=geometry.height,
        fps=VIDEO_FPS,
        frames_per_block=geometry.frames_per_block,
        samples_per_block=geometry.frames_per_block * SAMPLES_PER_FRAME,
        tokens_per_block=block_tokens,
        latency=latency(pipeline),
        memory=_memory(nodes),
        window=window_facts(pipeline),
        nodes=nodes,
        edges=_edges(graph),
        output=pipeline.output,
        processes={name: {"device": d, "nodes": n} for name, (d, n) in processes},
    )


def latency(pipeline: Pipeline) -> LatencyReport:
    """Return the algorithmic latency along the slowest way to the output."""
    graph = pipeline.graph
    way = _slowest_way(graph, pipeline.output.partition(".")[0])
    block = sum(node.declaration.block_ms for node in way)
    ahead = sum(node.declaration.lookahead_ms for node in way)
    return LatencyReport(block, ahead, block + ahead)


def window_facts(pipeline: Pipeline) -> dict[str, Any]:
    """Return the settings of the streaming algorithm, gathered from the denoiser's parts."""
    facts: dict[str, Any] = {"block_latents": pipeline.geometry.block_latents}
    for kind in PARTS:
        facts.update(_facts(pipeline, pipeline.stages[kind]))
        if kind == "window_scheduler" and (levels := ladder(pipeline.stages, pipeline.geometry)):
            facts["ladder"] = levels
    facts.update(pipeline.stages["denoiser"].config.declare(pipeline.geometry).facts)
    return facts


def mermaid(explanation: Explanation) -> str:
    """Return the graph as a mermaid flowchart, one box a process."""
    lines = ["flowchart LR"]
    for process, layout in explanation.processes.items():
        lines.append(f'  subgraph {process}["{process} ({layout["device"]})"]')
        for node in explanation.nodes:
            if node.name in layout["nodes"]:
                lines.append(f"    {_box(node)}")
        lines.append("  end")
    lines += [
        f'  {e.source.partition(".")[0]} -- "{e.format}" --> {e.target.partition(".")[0]}'
        for e in explanation.edges
    ]
    lines.append(f"  {explanation.output.partition('.')[0]} --> output([video])")
    return "\n".join(lines)


def _box(node: NodeReport) -> str:
    if node.stage == "source":
        return f"{node.name}([{node.name}])"
    inside = "".join(f"<br/>{part.kind}: {part.use}" for part in node.parts)
    return f'{node.name}["{node.name}: {node.stage.partition("/")[2]}{inside}"]'


def _slowest_way(graph: Graph, end: str) -> list[Node]:
    node = graph.node(end)
    if node is None:
        return []
    before = sorted({e.source_node for e in graph.edges if e.target_node == end})
    if not before:
        return [node]
    return [*_slowest_way(graph, max(before, key=graph.delay_ms)), node]


def _node(pipeline: Pipeline, node: Node) -> NodeReport:
    stage = pipeline.stages.get(node.name)
    where = {n: (p, d) for p, (d, nodes) in pipeline.processes.items() for n in nodes}
    process, device = where.get(node.name, ("main", "cpu"))
    parameters = _parameters(node, stage)
    parts = (
        [_part(pipeline, pipeline.stages[kind]) for kind in PARTS]
        if stage is not None and stage.kind == "denoiser"
        else []
    )
    size = BYTES[pipeline.spec.precision] if parts else node.declaration.bytes_per_parameter
    return NodeReport(
        name=node.name,
        stage=node.stage,
        provider=node.provider,
        version=node.version,
        process=process,
        device=device,
        block_ms=node.declaration.block_ms,
        lookahead_ms=node.declaration.lookahead_ms,
        delay_ms=pipeline.graph.delay_ms(node.name),
        num_parameters=parameters,
        weights_bytes=None if parameters is None else parameters * size,
        stream_bytes=node.declaration.bytes_per_stream,
        options=_options(stage),
        facts=dict(node.declaration.facts),
        parts=parts,
    )


def _parameters(node: Node, stage: Stage | None) -> int | None:
    if stage is None:
        return 0
    if node.declaration.num_parameters is not None:
        return node.declaration.num_parameters
    file = weights_file(stage)
    return counted_parameters(file) if file else None


def _part(pipeline: Pipeline, stage: Stage) -> PartReport:
    return PartReport(
        stage.kind,
        stage.use,
        stage.provider,
        stage.version,
        _options(stage),
        _facts(pipeline, stage),
    )


def _facts(pipeline: Pipeline, stage: Stage) -> dict[str, Any]:
    if not isinstance(stage.config, Declares):
        return {}
    return dict(stage.config.declare(pipeline.geometry).facts)


def _options(stage: Stage | None) -> dict[str, Any]:
    return msgspec.to_builtins(stage.config) if stage is not None else {}


def _edges(graph: Graph) -> list[EdgeReport]:
    rows: list[EdgeReport] = []
    for node in graph.order():
        for edge in graph.edges:
            made = graph.format_of(edge.source)
            if edge.target_node == node.name and made is not None:
                rows.append(EdgeReport(edge.source, edge.target, made.media, str(made)))
    return rows


def _memory(nodes: list[NodeReport]) -> MemoryReport:
    return MemoryReport(
        sum(node.weights_bytes or 0 for node in nodes),
        sum(node.stream_bytes for node in nodes),
        [node.name for node in nodes if node.weights_bytes is None],
    )
