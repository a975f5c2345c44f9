"""Safetensors files of this project: read, written, and told apart from pickles, never opened."""

import os
import secrets
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from af_core.errors import WeightsError
from af_core.weights.report import fill
from af_core.weights.signature import kind_of


def read_tensors(path: Path | str, device: str = "cpu") -> dict[str, Tensor]:
    """Return every tensor of a safetensors file; on the CPU, views of the file mapped to memory."""
    path = check_safetensors(path)
    try:
        with safe_open(str(path), framework="pt", device=device) as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as fault:
        raise WeightsError(
            f"{path} is damaged or is no safetensors file ({fault}). Copy it again; its size is "
            f"{path.stat().st_size} bytes."
        ) from fault


def read_metadata(path: Path | str) -> dict[str, str]:
    """Return the text that stands in the header of a safetensors file."""
    path = check_safetensors(path)
    try:
        with safe_open(str(path), framework="pt") as file:
            return dict(file.metadata() or {})
    except SafetensorError as fault:
        raise WeightsError(f"{path} is damaged or is no safetensors file ({fault}).") from fault


def write_tensors(
    path: Path | str, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write a safetensors file, whole or not at all, whoever else writes it.

    Tensors are not copied, unless they share memory. Raises ``OSError`` if the disk is full.
    """
    path = Path(path)
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        part.touch()
        mode = part.stat().st_mode  # safetensors makes files that only their owner may read
        save_file(_apart(tensors), part, dict(metadata or {}))
        part.chmod(mode)
        os.replace(part, path)
    except SafetensorError as fault:
        raise OSError(f"{path} could not be written: {fault}") from fault
    finally:
        part.unlink(missing_ok=True)


def load(model: nn.Module, path: Path | str) -> None:
    """Fill a model from a safetensors file, strictly."""
    fill(model, read_tensors(path), str(path))


def check_safetensors(path: Path | str) -> Path:
    """Return the path if a safetensors file lies there; refuse pickles by name."""
    path = Path(path)
    if kind_of(path) != "safetensors":
        raise WeightsError(
            f"{path} is a pickle (a PyTorch checkpoint) or an index of files. Only safetensors "
            "files are read here; `af-runtime weights convert IN OUT.safetensors` makes one."
        )
    return path


def _apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return contiguous tensors of which no two share memory, which safetensors refuses."""
    seen: set[int] = set()
    held = {}
    for name, tensor in tensors.items():
        tensor = tensor.detach().contiguous()
        place = tensor.untyped_storage().data_ptr()
        held[name] = tensor.clone() if place in seen else tensor
        seen.add(place)
    return held
