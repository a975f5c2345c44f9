"""Which process and device each node runs on: checked here, shown by ``explain``."""

from collections.abc import Iterable, Mapping

import attrs
import msgspec

from af_core.graph.checked import Pipeline
from af_core.graph.spec import ProcessSpec
from af_core.graph.wiring import SOURCES
from af_core.problems import Problem, unknown

AT_OPEN = (*SOURCES, "image_encoder", "text_encoder")
"""Nodes that have done their work when a stream begins."""

AUDIO, DENOISE, DECODE = "audio", "denoise", "decode"
"""The processes of `in_three_stages`."""


@attrs.frozen
class Leg:
    """Nodes of one process that run one after another while a stream lasts."""

    process: str
    nodes: tuple[str, ...]
    inputs: tuple[str, ...]
    """What it is given, each written ``node.port``."""
    outputs: tuple[str, ...]
    """What others, or the viewer, take of it."""

    @property
    def name(self) -> str:
        """Return the nodes as one name."""
        return "+".join(self.nodes)


def legs(pipeline: Pipeline) -> list[Leg]:
    """Return how a stream travels between the processes of the placement, in order."""
    graph, owner = pipeline.graph, _owners(pipeline)
    order = [node.name for node in graph.order() if node.name not in AT_OPEN]
    groups = _grouped(order, {n: {*_sources(pipeline, n)} & {*order} for n in order}, owner)
    found: list[Leg] = []
    for nodes in groups:
        taken = [source for node in nodes for source in graph.incoming(node).values()]
        inputs = [s for s in taken if s.partition(".")[0] in {"audio", *order} - {*nodes}]
        outside = [s for n in order if n not in nodes for s in graph.incoming(n).values()]
        outputs = [s for s in (*outside, pipeline.output) if s.partition(".")[0] in nodes]
        found.append(Leg(owner[nodes[0]], nodes, _unique(inputs), _unique(outputs)))
    return found


def in_three_stages(pipeline: Pipeline) -> Pipeline:
    """Return the pipeline with a process each for hearing, denoising and showing.

    Portraits are encoded where frames are decoded; a node of one's own goes where its input comes
    from. Nodes stay on the devices that the pipeline names; a process has one device.
    """
    devices = {node: d for d, nodes in pipeline.processes.values() for node in nodes}
    stage = {"audio_encoder": AUDIO, "text_encoder": DENOISE, "image_encoder": DECODE}
    for name in (node.name for node in pipeline.graph.order() if node.name not in SOURCES):
        before = [stage[s] for s in _sources(pipeline, name) if s in stage]
        own = {"denoiser": DENOISE, "decoder": DECODE}.get(name, before[-1] if before else AUDIO)
        stage.setdefault(name, own)
    table: dict[str, ProcessSpec] = {}
    for process in (AUDIO, DENOISE, DECODE):
        nodes = tuple(name for name, where in stage.items() if where == process)
        nodes = tuple(name for name in nodes if pipeline.graph.node(name) is not None)
        device = next((devices[name] for name in nodes if devices[name] != "cpu"), "cpu")
        table[process] = ProcessSpec(nodes, device)
    return placed(pipeline, table)


def placed(pipeline: Pipeline, placement: Mapping[str, ProcessSpec]) -> Pipeline:
    """Return the pipeline with another placement."""
    spec = msgspec.structs.replace(pipeline.spec, placement=dict(placement))
    return attrs.evolve(pipeline, spec=spec)


def _owners(pipeline: Pipeline) -> dict[str, str]:
    return {node: process for process, (_, nodes) in pipeline.processes.items() for node in nodes}


def _sources(pipeline: Pipeline, node: str) -> list[str]:
    return [source.partition(".")[0] for source in pipeline.graph.incoming(node).values()]


def _grouped(
    order: list[str], before: Mapping[str, set[str]], owner: Mapping[str, str]
) -> list[tuple[str, ...]]:
    """Return the nodes in an order that stays in a process as long as it can."""
    left, groups = list(order), list[list[str]]()
    while left:
        ready = [name for name in left if not before[name] & {*left}]
        same = [name for name in ready if groups and owner[name] == owner[groups[-1][0]]]
        chosen = (same or ready)[0]
        groups[-1:] = [[*groups[-1], chosen]] if same else [*groups[-1:], [chosen]]
        left.remove(chosen)
    return [tuple(group) for group in groups]


def _unique(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names))


def placement_problems(placement: object, nodes: list[str]) -> list[Problem]:
    """Return nodes that do not exist or that two processes claim.

    ``placement`` is the table as it was written; its shape is judged with the rest of the file.
    """
    problems: list[Problem] = []
    owner: dict[str, str] = {}
    for process, node in _pairs(placement):
        path = f"placement.{process}.nodes"
        if node not in nodes:
            problems.append(unknown("unknown_node", path, "node", node, nodes))
        elif node in owner:
            text = f"{node!r} is placed in {owner[node]!r} already; a node runs in one process."
            problems.append(Problem("placed_twice", path, text, got=node))
        owner.setdefault(node, process)
    return problems


def _pairs(placement: object) -> list[tuple[str, str]]:
    """Return (process, node) for everything that has the right shape."""
    parts = placement.items() if isinstance(placement, Mapping) else ()
    return [
        (str(process), node)
        for process, part in parts
        if isinstance(part, Mapping) and isinstance(part.get("nodes"), list)
        for node in part["nodes"]
        if isinstance(node, str)
    ]


def working_processes(pipeline: Pipeline) -> dict[str, tuple[str, list[str]]]:
    """Return process -> (device, nodes) for those that have work: more than data that enters."""
    found = pipeline.processes.items()
    return {name: (device, nodes) for name, (device, nodes) in found if {*nodes} - {*SOURCES}}


def in_process_problems(processes: Mapping[str, tuple[str, list[str]]]) -> list[Problem]:
    """Return why a placement cannot run inside this one process; empty when it can."""
    if len(processes) <= 1:
        return []
    layout = "; ".join(f"{name}: {', '.join(nodes)}" for name, (_, nodes) in processes.items())
    return [
        Problem(
            "many_processes",
            "placement",
            "This driver runs a pipeline in one process; the placement spreads it over several.",
            "one process, or no placement at all",
            layout,
            "--set 'placement={}', or af-runtime serve, which runs one process each",
        )
    ]
