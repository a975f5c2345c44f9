"""Checkpoints of a run: complete or not there, sharded, readable by another number of processes."""

import pickletools
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import torch
from af_core.errors import ConfigError, WeightsError
from torch import Tensor
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from af_train.parallel import World

_ABOUT = "about.json"
"""Written last: a folder without it is no checkpoint."""


class About(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is known of a checkpoint before its tensors are read."""

    step: int
    """Steps done."""
    updates: dict[str, int]
    """Updates of each role."""
    samples: int
    """Samples of one update, over all processes and micro-batches."""


def newest(directory: Path) -> Path | None:
    """Return the newest complete checkpoint of a run."""
    found = sorted(path.parent for path in (directory / "checkpoints").glob(f"*/{_ABOUT}"))
    return found[-1] if found else None


def read_about(checkpoint: Path) -> About:
    """Return what a checkpoint says of itself."""
    try:
        return msgspec.json.decode((checkpoint / _ABOUT).read_bytes(), type=About)
    except msgspec.MsgspecError as error:
        raise ConfigError(f"{checkpoint / _ABOUT} cannot be read: {error}") from error


def write(directory: Path, about: About, state: dict[str, Any], world: World, keep: int) -> Path:
    """Write a checkpoint together with all processes and let all but ``keep`` older ones go."""
    path = directory / "checkpoints" / f"{about.step:09d}"
    if world.leads:
        shutil.rmtree(path, ignore_errors=True)
    world.wait()
    with _alone_without_a_warning():
        save(state, checkpoint_id=path, no_dist=world.size == 1)
    world.wait()
    if world.leads:
        (path / _ABOUT).write_bytes(msgspec.json.encode(about))
        for old in sorted((directory / "checkpoints").iterdir())[:-keep]:
            shutil.rmtree(old)
    world.wait()
    return path


def read(checkpoint: Path, state: Mapping[str, Any], world: World) -> None:
    """Fill the tensors of ``state`` from a checkpoint, however many processes wrote it."""
    _require_plain(checkpoint / ".metadata")
    with _alone_without_a_warning():
        load(dict(state), checkpoint_id=checkpoint, no_dist=world.size == 1)


def read_weights(checkpoint: Path, role: str, *, averaged: bool = True) -> dict[str, Tensor]:
    """Return the weights of a role, whole, without its network; averages where there are any."""
    _require_plain(checkpoint / ".metadata")
    kept = FileSystemReader(checkpoint).read_metadata().state_dict_metadata
    parts = ("network", "average") if averaged else ("network",)
    tensors: dict[str, dict[str, Tensor]] = {}
    for name, about in kept.items():
        for part in parts:
            start = f"{role}.{part}."
            if name.startswith(start) and isinstance(about, TensorStorageMetadata):
                empty = torch.empty(about.size, dtype=about.properties.dtype)
                tensors.setdefault(part, {})[name.removeprefix(start)] = empty
    if "network" not in tensors:
        raise WeightsError(f"{checkpoint} holds no weights of the {role}.")
    with _alone_without_a_warning():
        load({role: tensors}, checkpoint_id=checkpoint, no_dist=True)
    return tensors["network"] | tensors.get("average", {})


_KNOWN = {
    ("collections", "OrderedDict"),
    ("pathlib", "PosixPath"),
    ("pathlib._local", "PosixPath"),
    ("torch", "Size"),
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
    ("torch.serialization", "_get_layout"),
}
_DESCRIPTIONS = "torch.distributed.checkpoint.metadata"
_STRINGS = {"SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"}
_RECALLS = {"BINGET", "LONG_BINGET"}
_NEVER = set(
    "GLOBAL INST OBJ EXT1 EXT2 EXT4 PERSID BINPERSID PUT BINPUT LONG_BINPUT".split()
    + "POP POP_MARK DUP".split()
)
"""Operations that torch's own descriptions do without, and with which names could be hidden."""


def _require_plain(path: Path) -> None:
    """Refuse a checkpoint whose description, a pickle, would do more than describe tensors.

    It is looked through, not run: whatever it would call must be the name of a size, a type or a
    place of a tensor.
    """
    try:
        for module, name in _called(path.read_bytes()):
            is_type = module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
            if not (module == _DESCRIPTIONS or is_type or (module, name) in _KNOWN):
                raise WeightsError(
                    f"{path} asks for {module}.{name}; no trainer wrote that, so it is not read."
                )
    except (OSError, ValueError, IndexError) as error:
        raise WeightsError(f"The checkpoint is damaged: {path} gives {error}.") from error


def _called(data: bytes) -> Iterator[tuple[str, str]]:
    """Yield module and name of all that a pickle would look up; raise if they are not plain.

    Names are the two strings pushed last, so nothing may come between them and the look-up.
    """
    pushed: list[str | None] = []
    memo: list[str | None] = []
    for operation, argument, _ in pickletools.genops(data):
        if operation.name in _NEVER:
            raise ValueError(f"the operation {operation.name}")
        if operation.name == "STACK_GLOBAL":
            module, name = pushed[-2:]
            if module is None or name is None:
                raise ValueError("a look-up of what is no plain name")
            yield module, name
        if operation.name == "MEMOIZE":
            memo.append(pushed[-1])
        elif operation.name in _STRINGS:
            pushed.append(str(argument))
        elif operation.name in _RECALLS:
            pushed.append(memo[int(argument or 0)])
        elif operation.name != "FRAME":
            pushed.append(None)


@contextmanager
def _alone_without_a_warning() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)
        yield
