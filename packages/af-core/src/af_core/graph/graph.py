"""The graph of a pipeline: nodes with typed ports, and edges that are checked when connected.

A graph is a value: ``add`` and ``connect`` return a new one. It holds declarations, no weights, so
it is built, checked and explained without torch.
"""

from graphlib import CycleError, TopologicalSorter
from typing import Literal

import attrs

from af_core.errors import PipelineConnectError, PipelineError
from af_core.ports import Declaration, Format, Port, describe, intersection, mismatches
from af_core.problems import Problem, unknown

Style = Literal["python", "file"]


@attrs.frozen
class Node:
    """One stage, or one source, in the graph."""

    name: str
    declaration: Declaration
    stage: str = ""
    """What it is, as ``kind/name``."""
    provider: str = ""
    """Distribution that provides it."""
    version: str = ""


@attrs.frozen
class Edge:
    """A connection, each end written ``node.port``."""

    source: str
    target: str

    @property
    def source_node(self) -> str:
        """Return the node where the edge begins."""
        return self.source.partition(".")[0]

    @property
    def target_node(self) -> str:
        """Return the node where the edge ends."""
        return self.target.partition(".")[0]


@attrs.frozen
class Graph:
    """Nodes and the edges between them."""

    nodes: tuple[Node, ...] = ()
    edges: tuple[Edge, ...] = ()
    style: Style = attrs.field(default="python", kw_only=True)
    """In which notation messages show the line to write."""

    def node(self, name: str) -> Node | None:
        """Return the node of that name."""
        return next((node for node in self.nodes if node.name == name), None)

    def add(self, node: Node) -> "Graph":
        """Return the graph with one more node; its name must be new and hold no dot."""
        if not node.name or "." in node.name:
            text = "A node's name is not empty and has no dot: ports are written node.port."
            raise PipelineError([Problem("bad_name", node.name, text, got=repr(node.name))])
        if self.node(node.name) is not None:
            raise PipelineError(
                [Problem("duplicate_node", node.name, "Two nodes have this name; rename one.")]
            )
        return attrs.evolve(self, nodes=(*self.nodes, node))

    def connect(self, source: str, target: str) -> "Graph":
        """Return the graph with an edge from ``node.output`` to ``node.input``.

        Raises ``PipelineConnectError`` with both sides, the fields on which they differ and the
        line to write instead.
        """
        problems = self.edge_problems(source, target)
        if problems:
            raise PipelineConnectError(problems)
        return attrs.evolve(self, edges=(*self.edges, Edge(source, target)))

    def edge_problems(self, source: str, target: str) -> list[Problem]:
        """Return what is wrong with an edge that is about to be added; empty when it fits."""
        path = f"{source} -> {target}"
        made, problems = self._end(path, source, "output")
        taken, more = self._end(path, target, "input")
        problems = [*problems, *more]
        if made is None or taken is None:
            return problems
        taken_by = next((edge for edge in self.edges if edge.target == target), None)
        if taken_by is not None:
            return [_occupied(path, taken_by)]
        loop = self._loop(Edge(source, target))
        if loop:
            return [_cycle(path, loop)]
        return self._format_problems(path, made, taken, target)

    def problems(self) -> list[Problem]:
        """Return what is wrong with the whole: missing inputs and delays that are too long."""
        return [*self._missing_inputs(), *self._late_inputs()]

    def order(self) -> list[Node]:
        """Return the nodes so that every node comes after those it listens to."""
        names = list(self._sorter(self.edges).static_order())
        return [node for name in names if (node := self.node(name)) is not None]

    def incoming(self, name: str) -> dict[str, str]:
        """Return where each connected input of a node gets its data: port -> ``node.port``."""
        return {
            edge.target.partition(".")[2]: edge.source
            for edge in self.edges
            if edge.target_node == name
        }

    def delay_ms(self, name: str) -> float:
        """Return the algorithmic delay at the output of a node: blocks and look-aheads so far."""
        node = self.node(name)
        if node is None:
            return 0.0
        sources = {edge.source_node for edge in self.edges if edge.target_node == name}
        before = max((self.delay_ms(source) for source in sources), default=0.0)
        return before + node.declaration.block_ms + node.declaration.lookahead_ms

    def format_of(self, source: str) -> Format | None:
        """Return the format of an output written ``node.port``."""
        port = self._port(source, "output")
        return port.format if port else None

    def line(self, source: str, target: str) -> str:
        """Return the line that connects two ports, in the notation of this graph."""
        node, _, port = target.partition(".")
        if self.style == "python":
            return f'graph = graph.connect("{source}", "{target}")'
        return f"{node}: {{inputs: {{{port}: {source}}}}}"

    def _port(self, end: str, side: Literal["input", "output"]) -> Port | None:
        name, _, port = end.partition(".")
        node = self.node(name)
        if node is None:
            return None
        return node.declaration.input(port) if side == "input" else node.declaration.output(port)

    def _end(
        self, path: str, end: str, side: Literal["input", "output"]
    ) -> tuple[Port | None, list[Problem]]:
        name, dot, port = end.partition(".")
        node = self.node(name)
        if node is None:
            known = [n.name for n in self.nodes]
            return None, [unknown("unknown_node", path, "node", name, known)]
        ports = node.declaration.inputs if side == "input" else node.declaration.outputs
        found = next((p for p in ports if p.name == port), None) if dot else None
        if found is not None:
            return found, []
        problem = unknown(
            "unknown_port", path, f"{side} of {name!r}", port, [p.name for p in ports]
        )
        there = "\n".join(f"{name}.{p.name}: {p.format}" for p in ports)
        return None, [
            Problem(
                problem.code,
                path,
                problem.message,
                there or f"{name!r} has no {side}",
                end,
                problem.suggestion and f"{name}.{problem.suggestion}",
            )
        ]

    def _format_problems(self, path: str, made: Port, taken: Port, target: str) -> list[Problem]:
        wrong = mismatches(made.format, taken.format)
        if not wrong:
            return []
        common = intersection(made.format, taken.format)
        agreed = ", ".join(f"{k} {v}" for k, v in common.items()) or "nothing"
        differ = "; ".join(f"{m.field} is {m.got}, must be {m.expected}" for m in wrong)
        fitting = self._fitting(taken.format, target)
        return [
            Problem(
                "format_mismatch",
                path,
                f"The formats do not fit: {differ}. They agree on {agreed}.",
                f"{describe(taken.format)}",
                f"{describe(made.format)}",
                "\n".join(self.line(source, target) for source in fitting)
                or f"settings of {path.partition('.')[0]} and {target.partition('.')[0]} that "
                "agree, or a node between them",
            )
        ]

    def _fitting(self, wanted: Format, target: str) -> list[str]:
        """Return the outputs that fit an input and would not close a loop."""
        return [
            f"{node.name}.{port.name}"
            for node in self.nodes
            for port in node.declaration.outputs
            if not mismatches(port.format, wanted)
            and not self._loop(Edge(f"{node.name}.{port.name}", target))
        ]

    def _sorter(self, edges: tuple[Edge, ...]) -> TopologicalSorter[str]:
        sorter: TopologicalSorter[str] = TopologicalSorter()
        for node in self.nodes:
            sorter.add(node.name)
        for edge in edges:
            sorter.add(edge.target_node, edge.source_node)
        return sorter

    def _loop(self, edge: Edge) -> list[str]:
        try:
            self._sorter((*self.edges, edge)).prepare()
        except CycleError as e:
            return [str(name) for name in e.args[1]]
        return []

    def _missing_inputs(self) -> list[Problem]:
        return [
            self._missing_input(node, port)
            for node in self.nodes
            for port in node.declaration.inputs
            if port.required and port.name not in self.incoming(node.name)
        ]

    def _missing_input(self, node: Node, port: Port) -> Problem:
        target = f"{node.name}.{port.name}"
        fitting = self._fitting(port.format, target)
        return Problem(
            "missing_input",
            target,
            f"The input {port.name!r} of {node.name!r} is not connected.",
            describe(port.format),
            "nothing",
            "\n".join(self.line(source, target) for source in fitting)
            or "no output in this graph fits; add a node that makes this format",
        )

    def _late_inputs(self) -> list[Problem]:
        late: list[Problem] = []
        for edge in self.edges:
            port = self._port(edge.target, "input")
            delay = self.delay_ms(edge.source_node)
            if port is None or port.max_delay_ms is None or delay <= port.max_delay_ms:
                continue
            late.append(
                Problem(
                    "too_late",
                    f"{edge.source} -> {edge.target}",
                    "What arrives here is delayed by blocks and look-ahead before it.",
                    f"at most {port.max_delay_ms:g} ms",
                    f"{delay:g} ms",
                )
            )
        return late


def _occupied(path: str, edge: Edge) -> Problem:
    return Problem(
        "input_taken",
        path,
        f"{edge.target!r} is already fed by {edge.source!r}; an input takes one edge.",
    )


def _cycle(path: str, loop: list[str]) -> Problem:
    return Problem(
        "cycle",
        path,
        "This edge closes a loop; a pipeline is acyclic, feedback belongs in a stage's state.",
        got=" -> ".join(loop),
    )
