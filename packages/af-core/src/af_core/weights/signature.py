"""What a weights file is, told from its first and last bytes, without torch or unpickling."""

import json
import os
import zipfile
from pathlib import Path
from typing import Any, Literal

from af_core.errors import WeightsError

Kind = Literal["safetensors", "index", "torch"]
"""Safetensors; the index of several safetensors files; a checkpoint of PyTorch."""

SUFFIXES = (".safetensors", ".safetensors.index.json", ".pt", ".pth", ".bin", ".ckpt")
"""Endings of the files that are read."""

_ZIP = b"PK\x03\x04"
_PICKLE = b"\x80"
_POINTER = b"version https://git-lfs"
_PAGES = (b"<!doctype", b"<html", b"<?xml")


def kind_of(path: Path | str) -> Kind:
    """Return the kind of a weights file; raise ``WeightsError`` if it is none, or is cut short."""
    path = _existing(Path(path))
    with path.open("rb") as file:
        start = file.read(64)
    header = _safetensors_size(start)  # first: the size may begin with the byte of a pickle
    if header is not None:
        _require_whole(path, header)
        return "safetensors"
    if start.startswith(_ZIP):
        return _whole_zip(path)
    if start.startswith(_PICKLE):
        return "torch"
    if path.name.endswith(".json") and start.lstrip().startswith(b"{"):
        shards(path)
        return "index"
    what = _what_it_is(path, start)
    raise WeightsError(f"{path} is no safetensors file and no PyTorch checkpoint: {what}.")


def shards(path: Path) -> dict[str, str]:
    """Return the ``weight_map`` of an index: the name of each tensor and the file it lies in."""
    try:
        found: Any = json.loads(path.read_bytes())["weight_map"]
        if found and all(file == Path(file).name for file in found.values()):
            return dict(found)
    except (ValueError, KeyError, TypeError, AttributeError):
        pass
    raise WeightsError(
        f'{path} is no index of weights: it has no table "weight_map" of files beside it.'
    )


def read_header(path: Path) -> dict[str, Any]:
    """Return the header of a safetensors file; raise ``ValueError`` if it is damaged."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        if size > path.stat().st_size:
            raise ValueError("the header is longer than the file")
        header = json.loads(file.read(size))
    if not isinstance(header, dict):
        raise ValueError("the header is no table")
    return header


def _existing(path: Path) -> Path:
    if path.is_dir():
        inside = sorted(p.name for p in path.iterdir() if p.name.endswith(SUFFIXES))
        hint = f"; name one of its files: {', '.join(inside[:8])}" if inside else ""
        raise WeightsError(f"No weights at {path}: it is a folder{hint}.")
    if not path.is_file():
        raise WeightsError(f"No weights at {path}: it does not exist.")
    if not os.access(path, os.R_OK):
        raise WeightsError(f"{path} may not be read by this user; see its permissions.")
    return path


def _whole_zip(path: Path) -> Kind:
    if not zipfile.is_zipfile(path):
        raise WeightsError(
            f"{path} begins as a PyTorch checkpoint but its end is missing, as after a download "
            f"that broke off; it has {path.stat().st_size} bytes. Fetch it again; `af-runtime "
            "download` goes on where it stopped."
        )
    return "torch"


def _safetensors_size(start: bytes) -> int | None:
    """Return the size of the header, if the first bytes can be that of a safetensors file."""
    size = int.from_bytes(start[:8], "little")
    return size if start[8:9] == b"{" and size < 2**40 else None


def _require_whole(path: Path, header_size: int) -> None:
    """Refuse a safetensors file that is shorter than its header says."""
    there = path.stat().st_size
    try:
        ends = [e["data_offsets"][1] for n, e in read_header(path).items() if n != "__metadata__"]
        whole = 8 + header_size + max(ends, default=0)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        if 8 + header_size <= there:
            raise WeightsError(f"{path} is damaged: the header is no safetensors header.") from None
        whole = 8 + header_size
    if there < whole:
        raise WeightsError(
            f"{path} is damaged: it is cut short, {there} of {whole} bytes are there. Copy or "
            "fetch it again."
        )


def _what_it_is(path: Path, start: bytes) -> str:
    if start.startswith(_POINTER):
        return "it is the pointer of Git LFS that stands for it; `git lfs pull` fetches the file"
    if start.lstrip().lower().startswith(_PAGES):
        return "it is a web page, such as the error of a server that was asked for the file"
    seen = json.dumps(start[:9].decode("latin-1"))
    return f"it has {path.stat().st_size} bytes and begins with {seen}"
