"""The file in which a measured capacity is kept, and whether it still speaks of what is to run.

A capacity holds for one pipeline, its weights, one machine and a number of threads. The file says
for which; where anything differs it is not used, and the notice says what differs.
"""

import hashlib
import os
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import torch
from af_core.graph.checked import Pipeline

from af_runtime.benchmark_report import cpu_name
from af_runtime.errors import RequestError
from af_runtime.outputs import replacing
from af_runtime.recording.origin import config_fields
from af_runtime.text.model_hash import hash_of_large_file
from af_runtime.text.places import user_cache

SCHEMA = "af-capacity/1"


class Key(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a capacity was measured for."""

    preset: str
    pipeline: str
    """Digest of every option and every file of weights."""
    cpu: str
    cores: int
    device: str
    """Where the networks run: ``cpu``, or the name of a GPU."""
    threads: int
    torch: str


class Trial(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What it took to draw one block for each of some sessions."""

    sessions: int
    together: bool
    """Whether they were drawn as one."""
    rounds: int
    p50_ms: float
    p99_ms: float
    holds: bool
    """Whether the 99th percentile lies within the budget."""


class Capacity(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How many sessions in real time one machine holds."""

    key: Key
    sessions: int
    together: bool
    """Whether blocks that wait at the same time should be drawn as one: it was faster."""
    budget_ms: float
    """Time in which every session needs a block, less what messages and frames need."""
    trials: tuple[Trial, ...]
    measured: str = ""
    """Date and time, UTC."""
    schema: str = SCHEMA


def key_of(pipeline: Pipeline, threads: int) -> Key:
    """Return what a capacity measured now, here, for this pipeline, would hold for."""
    devices = sorted({device for device, _ in pipeline.processes.values()})
    return Key(
        preset=pipeline.spec.name,
        pipeline=_digest(pipeline),
        cpu=cpu_name(),
        cores=os.cpu_count() or 1,
        device=", ".join(map(_device_name, devices)),
        threads=threads,
        torch=str(torch.__version__),
    )


def default_path(preset: str) -> Path:
    """Return where the capacity of a preset is kept for this user."""
    safe = "".join(c if c.isalnum() or c in "-._" else "_" for c in preset)
    return user_cache("capacity") / f"{safe}.json"


def save(capacity: Capacity, path: Path) -> None:
    """Write the file; it appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    dated = msgspec.structs.replace(capacity, measured=now)
    with replacing(path) as part:
        part.write_bytes(msgspec.json.format(msgspec.json.encode(dated), indent=1) + b"\n")


def recall(path: Path, key: Key) -> tuple[Capacity | None, str]:
    """Return the capacity in a file, or None, and a sentence on it for people.

    A file that cannot be read, or was measured for something else, is not used.
    """
    try:
        found = msgspec.json.decode(path.read_bytes(), type=Capacity)
    except FileNotFoundError:
        return None, "No capacity was measured here; `af-runtime bench --sessions auto` does it."
    except (OSError, msgspec.MsgspecError) as e:
        return None, f"{path} is not used: it holds no capacity ({e})."
    other = [
        f"{name} was {getattr(found.key, name)}, is {getattr(key, name)}"
        for name in Key.__struct_fields__
        if getattr(found.key, name) != getattr(key, name)
    ]
    if other or found.schema != SCHEMA:
        what = "; ".join(other) or f"its schema is {found.schema}"
        again = "Measure again: af-runtime bench --sessions auto"
        return None, f"{path} is not used, it was measured for something else: {what}. {again}"
    if found.sessions < 1:
        again = "Measure again while nothing else runs: af-runtime bench --sessions auto"
        return None, f"{path} says that this machine holds no session in real time. {again}"
    return (
        found,
        f"{found.sessions} sessions in real time were measured on {found.measured}: {path}",
    )


def _digest(pipeline: Pipeline) -> str:
    """Return the digest of what a recording of this pipeline would name as its origin."""
    if not all(isinstance(one.config, msgspec.Struct) for one in pipeline.stages.values()):
        raise RequestError("A capacity is kept for pipelines whose stages are named in a file.")
    lines = [f"{key}={value}" for key, value in config_fields(pipeline, hash_of_large_file)]
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()[:32]


def _device_name(device: str) -> str:
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else device
