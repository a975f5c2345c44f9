"""Safetensors files: read, written, and told apart from pickles, which are never opened."""

import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from af_core.errors import WeightsError
from af_core.weights.report import fill

_ZIP = b"PK\x03\x04"
_PICKLE = b"\x80"


def read_tensors(path: Path | str, device: str = "cpu") -> dict[str, Tensor]:
    """Return every tensor of a safetensors file."""
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
    """Write a safetensors file; it appears whole or not at all, whoever else writes it.

    Raises ``OSError`` if that fails, as on a full disk.
    """
    path = Path(path)
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    held = {name: tensor.detach().contiguous().clone() for name, tensor in tensors.items()}
    try:
        save_file(held, part, dict(metadata or {}))
        os.replace(part, path)
    except SafetensorError as fault:
        raise OSError(f"{path} cannot be written: {fault}") from fault
    finally:
        part.unlink(missing_ok=True)


def load(model: nn.Module, path: Path | str) -> None:
    """Fill a model from a safetensors file, strictly."""
    fill(model, read_tensors(path), str(path))


def check_safetensors(path: Path | str) -> Path:
    """Return the path if a safetensors file can lie there; refuse pickles by name."""
    path = Path(path)
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise WeightsError(f"No weights at {path}: it {what}.")
    with path.open("rb") as file:
        start = file.read(9)
    if len(start) == 9 and _header_fits(path, start):
        return path
    if start.startswith(_ZIP) or start.startswith(_PICKLE):
        raise WeightsError(
            f"{path} is a pickle (a PyTorch checkpoint), which can run any code when it is "
            "opened. Only safetensors files are read; convert it once, in a place you trust: "
            "torch.load(path, weights_only=True), then safetensors.torch.save_file(tensors, path)."
        )
    raise WeightsError(
        f"{path} is no safetensors file: it has {path.stat().st_size} bytes and begins with "
        f"{json.dumps(start.decode('latin-1'))}."
    )


def _header_fits(path: Path, start: bytes) -> bool:
    size = int.from_bytes(start[:8], "little")
    return size + 8 <= path.stat().st_size and start[8:9] == b"{"
