"""Where the pictures of a recording come from: every option, the digest of every file, the machine.

Two streams with the same origin, portrait, seed and speech have the same bits. What of an origin
differs elsewhere is told field by field.
"""

import hashlib
import platform
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import attrs
import msgspec
import torch
from af_core.graph.checked import Pipeline
from af_core.graph.resolve import open_pipeline
from af_core.graph.spec import PATH_OPTIONS
from af_core.models.attention import Attention
from af_core.pipeline import Avatar
from af_core.weights.digest import sha256_of

from af_runtime.benchmark_report import cpu_name

Fields = Mapping[str, str]

NOT_OF_STREAMS = ("text_encoder",)
"""Stages that work once for the model; what they made is compared instead."""

LIBRARIES = ("af-core", "af-audio", "af-runtime", "torch", "numpy")


@attrs.frozen
class Origin:
    """What decides the bits of a stream, besides its portrait, seed and speech."""

    pipeline: str
    """Preset or pipeline file."""
    overrides: Mapping[str, Any] = attrs.field(factory=dict)
    config: Fields = attrs.field(factory=dict)
    """Everything that decides the pictures: options by ``stage.option``, files by digest."""
    machine: Fields = attrs.field(factory=dict)
    """What may change the rounding of the same computation."""

    @property
    def config_hash(self) -> str:
        """SHA-256 of ``config``."""
        return hashlib.sha256(msgspec.json.encode(dict(sorted(self.config.items())))).hexdigest()


def origin_of(name: str, overrides: Mapping[str, Any], avatar: Avatar) -> Origin:
    """Return the origin of the streams of an avatar that was loaded by this name."""
    config = dict(config_fields(open_pipeline(name, overrides)))
    if avatar.text is not None:
        text = avatar.text.detach().float().cpu().contiguous()
        config["text"] = hashlib.sha256(text.numpy().tobytes()).hexdigest()
    machine = machine_fields(avatar)
    if not machine["attention"]:  # the network is in another process, where a race is not run
        machine["attention"] = config.get("denoiser.attention", "")
    return Origin(name, dict(overrides), config, machine)


def config_fields(
    pipeline: Pipeline, sha256: Callable[[Path], str] = sha256_of
) -> Iterator[tuple[str, str]]:
    """Yield every option of a pipeline, defaults included, and the digest of every file.

    ``sha256`` returns that of a file; one that remembers it saves reading large files again.
    """
    spec = pipeline.spec
    yield "name", spec.name
    yield "precision", spec.precision
    yield "prompt", spec.prompt
    yield "output", pipeline.output
    yield from _flat("geometry", msgspec.to_builtins(spec.geometry))
    folder = Path(pipeline.origin).parent
    for name, stage in pipeline.stages.items():
        if stage.kind in NOT_OF_STREAMS:
            continue
        yield f"{name}.use", f"{stage.use} of {stage.provider} {stage.version}".strip()
        for key, value in _flat(name, _options(stage.config)):
            is_path = key.rpartition(".")[2] in PATH_OPTIONS and value not in ("", "None")
            yield key, digest_of_files(folder / value, sha256) if is_path else value


def machine_fields(avatar: Avatar) -> dict[str, str]:
    """Return what may change the rounding: processor, device, threads, kernels, versions."""
    kernels = sorted({attention.kernel for attention in attentions(avatar)})
    device = torch.device(avatar.device)
    gpu = {"gpu": torch.cuda.get_device_name(device)} if device.type == "cuda" else {}
    return {
        "cpu": cpu_name(),
        "architecture": platform.machine(),
        "device": device.type,
        "threads": str(torch.get_num_threads()),
        "attention": " ".join(kernels),
        **gpu,
        **{name: _version(name) for name in LIBRARIES},
    }


def differences(recorded: Fields, here: Fields) -> list[str]:
    """Return a line for each field that is not the same, sorted."""
    return [
        f"{key}: recorded {recorded.get(key, 'nothing')}, here {here.get(key, 'nothing')}"
        for key in sorted({*recorded, *here})
        if recorded.get(key) != here.get(key)
    ]


def settle_kernels(avatar: Avatar, kernel: str = "") -> None:
    """Fix the kernel of each attention that would race for it, so that it rounds the same again.

    Without a name, each keeps the one that has won most of its races so far.
    """
    for attention in attentions(avatar):
        if attention.kernel == "auto":
            won = list(attention.winners.values())
            chosen: Any = kernel or max(("sdpa", "explicit"), key=won.count)
            attention.kernel = chosen


def attentions(avatar: Avatar) -> list[Attention]:
    """Return the attentions of the networks that denoise."""
    streamers = (getattr(runner, "streamer", None) for runner in avatar.runners.values())
    found = (getattr(getattr(one, "denoiser", None), "attention", None) for one in streamers)
    return [one for one in found if isinstance(one, Attention)]


def digest_of_files(path: Path, sha256: Callable[[Path], str] = sha256_of) -> str:
    """Return the SHA-256 of a file, or of the names and digests of all files in a folder."""
    if path.is_dir():
        files = sorted(one for one in path.rglob("*") if one.is_file())
        listed = "\n".join(f"{one.relative_to(path)} {sha256(one)}" for one in files)
        return f"sha256:{hashlib.sha256(listed.encode()).hexdigest()}"
    return f"sha256:{sha256(path)}" if path.is_file() else f"missing {path.name}"


def _options(config: Any) -> Any:
    try:
        return msgspec.to_builtins(config)
    except (TypeError, NotImplementedError):  # a stage of one's own, made by hand
        return {"options": repr(config)}


def _flat(path: str, value: Any) -> Iterator[tuple[str, str]]:
    """Yield the leaves of a table by their dotted path."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flat(f"{path}.{key}", inner)
    else:
        yield path, value if isinstance(value, str) else str(value)


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "unknown"
