"""Turns the table of a pipeline file into a checked pipeline, and reports every error at once."""

from collections.abc import Mapping
from typing import Any

import attrs
import msgspec

from af_core.errors import AvatarForcingError, PipelineError, ProblemsError
from af_core.geometry import Geometry
from af_core.graph.checked import PARTS, Pipeline, Stage
from af_core.graph.graph import Graph, Node
from af_core.graph.placement import placement_problems
from af_core.graph.reading import Document, in_weights_dir, read_document, with_overrides
from af_core.graph.spec import DEFAULT_OUTPUT, STAGE_KEYS, GeometrySpec, PipelineSpec
from af_core.graph.strict import decode
from af_core.graph.wiring import (
    REVISIONS,
    SOURCES,
    STANDARD_EDGES,
    denoiser_declaration,
    ladder_problems,
    prompt_problems,
    sources,
    weights_problems,
)
from af_core.plugins.loading import load_catalog
from af_core.plugins.registry import Catalog
from af_core.problems import Problem, unknown


@attrs.frozen
class Checked:
    """What a check found: the pipeline if it can run, and everything worth saying."""

    pipeline: Pipeline | None
    problems: tuple[Problem, ...] = ()
    warnings: tuple[Problem, ...] = ()


def open_pipeline(
    name: str,
    overrides: Mapping[str, Any] | None = None,
    catalog: Catalog | None = None,
) -> Pipeline:
    """Return the checked pipeline of a preset or file; raise ``PipelineError`` with all errors."""
    checked = check_pipeline(name, overrides, catalog)
    if checked.pipeline is None or checked.problems:
        raise PipelineError(checked.problems)
    return checked.pipeline


def check_pipeline(
    name: str,
    overrides: Mapping[str, Any] | None = None,
    catalog: Catalog | None = None,
    *,
    with_weights: bool = True,
) -> Checked:
    """Check a preset or file without building anything; no error is raised for what it says.

    ``with_weights=False`` asks for no file of weights and no prompt, so that what a pipeline needs
    can be told before it is there.
    """
    catalog = catalog or load_catalog()
    try:
        document = read_document(name, catalog)
        table = with_overrides(document.table, overrides or {})
    except ProblemsError as e:
        return Checked(None, e.problems, catalog.problems)
    pipeline, problems = resolve(table, catalog, document, with_weights=with_weights)
    return Checked(None if problems else pipeline, tuple(problems), catalog.problems)


def resolve(
    table: Mapping[str, Any],
    catalog: Catalog,
    document: Document | None = None,
    *,
    with_weights: bool = True,
) -> tuple[Pipeline | None, list[Problem]]:
    """Return the pipeline that a table describes, with all problems; see ``check_pipeline``."""
    table, homeless = in_weights_dir(table)
    spec, problems = decode(table, PipelineSpec, "")
    stages, more = _stages(table, catalog)
    problems += [*more, *placement_problems(table.get("placement"), _node_names(table))]
    geometry, more = _geometry(table.get("geometry"))
    problems += more
    if geometry is None:
        return None, problems
    graph, more = _graph(geometry, stages, _node_names(table))
    problems += more
    if with_weights:
        broken = {problem.path for problem in problems if problem.code == "bad_stage"}
        whole = {name: stage for name, stage in stages.items() if name not in broken}
        problems += homeless or weights_problems(whole)
    wanted = {key for key in STAGE_KEYS if key != "text_encoder" or table.get(key) is not None}
    built = {node.name for node in graph.nodes} | {*PARTS} & stages.keys()
    if not wanted <= built:
        return None, problems  # what follows would only repeat that a stage is missing
    refused = {p.path.rpartition(" -> ")[2] for p in problems}
    problems += [problem for problem in graph.problems() if problem.path not in refused]
    problems += _output_problems(graph, table.get("output", DEFAULT_OUTPUT))
    problems += ladder_problems(stages, geometry)
    if with_weights and not homeless:
        problems += prompt_problems(stages, table.get("prompt", ""))
    if spec is None:
        return None, problems
    origin = document.origin if document else ""
    provider = document.provider if document else ""
    return Pipeline(spec, geometry, graph, stages, origin, provider), problems


def _geometry(data: object) -> tuple[Geometry | None, list[Problem]]:
    """Return the geometry; what is wrong with single keys has been reported with the file."""
    spec, _ = decode(data, GeometrySpec, "geometry")
    if spec is None:
        return None, []
    try:
        return Geometry(**msgspec.structs.asdict(spec)), []
    except (AvatarForcingError, ValueError) as e:
        return None, [Problem("bad_geometry", "geometry", str(e))]


def _node_names(table: Mapping[str, Any]) -> list[str]:
    """Return the names of the nodes that the table describes, resolved or not."""
    own = table.get("nodes")
    stages = [key for key in STAGE_KEYS if key in table and key not in PARTS]
    return [*SOURCES[:2], *stages, *(map(str, own) if isinstance(own, Mapping) else ())]


def _stages(table: Mapping[str, Any], catalog: Catalog) -> tuple[dict[str, Stage], list[Problem]]:
    """Look every stage up and decode its options, collecting what is wrong with each."""
    written = {key: (key, table[key]) for key in STAGE_KEYS if table.get(key) is not None}
    nodes = table.get("nodes")
    problems: list[Problem] = []
    for name, value in nodes.items() if isinstance(nodes, Mapping) else ():
        if name in (*STAGE_KEYS, *SOURCES):
            problems.append(
                Problem("duplicate_node", f"nodes.{name}", "This name is taken; choose another.")
            )
        written[f"nodes.{name}"] = ("node", value)
    stages: dict[str, Stage] = {}
    for path, (kind, value) in written.items():
        stage, found = _stage(path, kind, value, catalog)
        problems += found
        if stage is not None:
            stages[stage.name] = stage
    return stages, problems


def _stage(
    path: str, kind: str, value: object, catalog: Catalog
) -> tuple[Stage | None, list[Problem]]:
    if not isinstance(value, Mapping):
        return None, []  # the decoding of the whole has reported it
    options = dict(value)
    use = options.pop("use", None)
    graphed = kind not in PARTS
    inputs = options.pop("inputs", {}) if graphed else {}
    if not isinstance(use, str):
        names = ", ".join(catalog.names(kind))
        text = "A stage says which one it uses."
        return None, [Problem("missing_key", f"{path}.use", text, f"one of: {names}", repr(use))]
    try:
        offer = catalog.get(kind, use)
    except ProblemsError as e:
        return None, [_placed(problem, f"{path}.use", use) for problem in e.problems]
    problems = _inputs_problems(path, inputs)
    config, found = decode(options, offer.config or msgspec.Struct, path)
    problems += found
    if config is None or problems:
        return None, problems
    name = path.removeprefix("nodes.")
    return Stage(name, kind, config, offer.name, offer.provider, offer.version, inputs), []


def _placed(problem: Problem, path: str, use: str) -> Problem:
    suggestion = problem.suggestion
    if suggestion and not suggestion.startswith("use:"):
        suggestion = f"use: {suggestion}"
    return Problem(problem.code, path, problem.message, problem.expected, use, suggestion)


def _inputs_problems(path: str, inputs: object) -> list[Problem]:
    if isinstance(inputs, Mapping) and all(isinstance(v, str) for v in inputs.values()):
        return []
    text = "Inputs are a table from a port of this node to an output, written node.port."
    want = "{frames: decoder.frames}"
    return [Problem("bad_value", f"{path}.inputs", text, want, repr(inputs))]


def _graph(
    geometry: Geometry, stages: Mapping[str, Stage], names: list[str]
) -> tuple[Graph, list[Problem]]:
    graph = Graph(sources(geometry, text="text_encoder" in stages), style="file")
    problems: list[Problem] = []
    for stage in stages.values():
        if stage.kind in PARTS:
            continue
        try:
            declaration = (
                denoiser_declaration(geometry, stages)
                if stage.kind == "denoiser"
                else stage.config.declare(geometry)
            )
            graph = graph.add(
                Node(stage.name, declaration, stage.label, stage.provider, stage.version)
            )
        except (AvatarForcingError, ValueError) as e:
            problems.append(Problem("bad_stage", stage.name, str(e)))
    for source, target in [*_wanted_edges(stages), *_revisions(graph)]:
        if graph.node(target.partition(".")[0]) is None:
            continue
        found = graph.edge_problems(source, target)
        begins = source.partition(".")[0]
        if graph.node(begins) is None and begins in names:
            continue  # that node has its own problem already
        problems += found
        if not found:
            graph = graph.connect(source, target)
    return graph, problems


def _wanted_edges(stages: Mapping[str, Stage]) -> list[tuple[str, str]]:
    edges = [
        (stages[node].inputs.get(port, source), f"{node}.{port}")
        for (node, port), source in STANDARD_EDGES.items()
        if node in stages and (source.partition(".")[0] in {*stages, *SOURCES} or port != "text")
    ]
    edges += [
        (source, f"{stage.name}.{port}")
        for stage in stages.values()
        for port, source in stage.inputs.items()
        if (stage.name, port) not in STANDARD_EDGES
    ]
    return edges


def _revisions(graph: Graph) -> list[tuple[str, str]]:
    """Return the edge of revised features, if the audio encoder makes them."""
    source, _ = REVISIONS
    return [] if graph.format_of(source) is None else [REVISIONS]


def _output_problems(graph: Graph, output: object) -> list[Problem]:
    if not isinstance(output, str):
        return []  # the decoding of the whole has reported it
    made = graph.format_of(output)
    if made is not None and made.media == "frames":
        return []
    fitting = [
        f"{node.name}.{port.name}"
        for node in graph.nodes
        for port in node.declaration.outputs
        if port.format.media == "frames"
    ]
    if made is None:
        return [unknown("unknown_port", "output", "output", output, fitting)]
    text = "An avatar emits frames."
    return [Problem("format_mismatch", "output", text, ", ".join(fitting), f"{output}: {made}")]
