"""Does a pipeline fit? What a device has free, and a refusal that shows the arithmetic."""

from collections.abc import Collection
from pathlib import Path

import torch

from af_core.errors import PipelineError
from af_core.graph.checked import Pipeline
from af_core.graph.explain import explain
from af_core.problems import Problem

_MEMINFO = Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup")


def require_memory(pipeline: Pipeline, device: str, nodes: Collection[str] | None = None) -> None:
    """Raise ``PipelineError`` if weights and one stream cannot fit into what ``device`` has free.

    ``nodes`` are those that run there; None means all.

    Activations are not counted, so what passes may still be too large; what is refused surely is.
    """
    free = free_bytes(device)
    explanation = explain(pipeline)
    rows = [(n.name, (n.weights_bytes or 0) + n.stream_bytes) for n in explanation.nodes]
    rows = [(name, size) for name, size in rows if nodes is None or name in nodes]
    needed = sum(size for _, size in rows)
    if free is None or needed <= free:
        return
    rows = sorted((row for row in rows if row[1]), key=lambda row: -row[1])
    parts = ", ".join(f"{name} {_text(size)}" for name, size in rows)
    raise PipelineError(
        [
            Problem(
                "too_little_memory",
                "placement",
                f"{pipeline.spec.name} at {pipeline.geometry.width}x{pipeline.geometry.height} "
                f"does not fit into the memory of {device}.",
                f"{_text(needed)} for weights and one stream, activations not counted ({parts})",
                f"{_text(free)} free",
                "a smaller geometry.width and geometry.height, precision=bfloat16, or "
                "another device in placement",
            )
        ]
    )


def free_bytes(device: str) -> int | None:
    """Return the bytes that ``device`` can still give, None where the system does not tell."""
    kind = torch.device(device)
    if kind.type == "cuda":
        return torch.cuda.mem_get_info(kind)[0]
    if kind.type != "cpu":
        return None
    known = [bytes_ for bytes_ in (_available(), _under_limit()) if bytes_ is not None]
    return min(known, default=None)


def _available() -> int | None:
    """Return what Linux can give to a new program."""
    try:
        lines = _MEMINFO.read_text().splitlines()
    except OSError:
        return None
    found = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return 1024 * int(found[0]) if found else None


def _under_limit() -> int | None:
    """Return what a container's limit leaves; None without one.

    Files that were read or written lately count as used there, but make room when it is needed.
    """
    try:
        limit, used, table = (
            (_CGROUP / name).read_text() for name in ("memory.max", "memory.current", "memory.stat")
        )
    except OSError:
        return None
    if not limit.strip().isdigit():
        return None
    counts = dict(line.split() for line in table.splitlines())
    files = sum(int(counts.get(name, 0)) for name in ("active_file", "inactive_file"))
    return int(limit) - int(used) + files


def _text(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"
