"""Which process and device each node runs on: checked here, shown by ``explain``."""

from collections.abc import Mapping

from af_core.problems import Problem, unknown


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
            "--set 'placement={}'",
        )
    ]
