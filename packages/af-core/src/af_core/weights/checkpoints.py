"""Checkpoints as published: safetensors, shards of it, and PyTorch files, all memory-mapped.

PyTorch files are read with ``weights_only=True``, which builds tensors and containers and runs no
code; a file that holds anything else is refused.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from af_core.errors import WeightsError
from af_core.weights.files import read_tensors
from af_core.weights.signature import kind_of, shards

GENERATOR = "generator"
"""Entry of a published checkpoint that is read unless another is asked for."""
WHOLE = ""
"""Name of the one entry of a file that is a state dict itself."""


def read_checkpoint(path: Path | str, *, entry: str | None = None) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint on the CPU, in their own types, under their own names.

    They are views of the file, mapped into memory: nothing is read until a tensor is used (only
    PyTorch files older than the zip format are read whole). ``report.adopt`` moves them into a
    network one by one. ``entry`` chooses among several state dicts in one file, such as the
    averaged ``generator_ema``; without it, ``generator`` or the only one is taken.

    Raises ``WeightsError`` for what is no checkpoint, is cut short, holds more than tensors, or
    lacks the entry.
    """
    return choose(read_entries(path), entry, str(path))


def read_entries(path: Path | str) -> dict[str, dict[str, Tensor]]:
    """Return every state dict in a file by the name of its entry; see ``read_checkpoint``."""
    path = Path(path)
    kind = kind_of(path)
    if kind == "torch":
        return _entries(_load(path), path)
    files = {path} if kind == "safetensors" else _shard_files(path)
    return {WHOLE: {name: t for file in sorted(files) for name, t in read_tensors(file).items()}}


def choose(
    entries: Mapping[str, dict[str, Tensor]], entry: str | None, source: str
) -> dict[str, Tensor]:
    """Return one entry: the one asked for, else ``generator``, else the only one."""
    names = ", ".join(entries)
    if entry is None:
        if GENERATOR in entries or len(entries) == 1:
            return entries[GENERATOR if GENERATOR in entries else next(iter(entries))]
        raise WeightsError(f"{source} holds several state dicts: {names}. Set entry to one.")
    if entry in entries:
        return entries[entry]
    if list(entries) == [WHOLE]:
        raise WeightsError(
            f"{source} is one state dict and has no entries, so no {entry!r} either. "
            "Leave entry out."
        )
    raise WeightsError(f"{source} has no entry {entry!r}; it holds: {names}.")


def _shard_files(index: Path) -> set[Path]:
    files = {index.parent / name for name in shards(index).values()}
    if absent := sorted(file.name for file in files if not file.is_file()):
        raise WeightsError(f"{index} names files that are not beside it: {', '.join(absent)}.")
    for file in files:
        if kind_of(file) != "safetensors":
            raise WeightsError(f"{file}, which {index.name} names, is no safetensors file.")
    return files


def _load(path: Path) -> Any:
    with path.open("rb") as file:
        is_zip = file.read(2) == b"PK"
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except Exception as fault:  # whatever a damaged or unwanted pickle raises
        raise _explained(path, fault) from fault


def _explained(path: Path, fault: Exception) -> WeightsError:
    text = str(fault)
    if "weights" not in text.lower() or "unpickler" not in text.lower():
        first = text.partition("\n")[0] or type(fault).__name__
        return WeightsError(f"{path} is damaged: {first} Copy or fetch it again.")
    found = re.findall(r"GLOBAL ([\w.]+)", text) or ["something that is no tensor"]
    return WeightsError(
        f"{path} holds more than tensors ({', '.join(dict.fromkeys(found))}), and opening that "
        "could run any code, so it is refused. Ask whoever made it for safetensors, or for a "
        "plain state dict: torch.save(model.state_dict(), path)."
    )


def _entries(loaded: Any, path: Path) -> dict[str, dict[str, Tensor]]:
    if not isinstance(loaded, Mapping):
        raise WeightsError(f"{path} holds a {type(loaded).__name__}, not a table of tensors.")
    entries = {
        str(name): found
        for name, value in loaded.items()
        if isinstance(value, Mapping) and (found := _tensors(value))
    }
    if entries:
        return entries
    if tensors := _tensors(loaded):
        return {WHOLE: tensors}
    inside = ", ".join(map(str, list(loaded)[:8])) or "nothing"
    raise WeightsError(f"{path} holds no tensors; it holds: {inside}.")


def _tensors(table: Mapping[Any, Any]) -> dict[str, Tensor]:
    return {str(name): value for name, value in table.items() if isinstance(value, Tensor)}
