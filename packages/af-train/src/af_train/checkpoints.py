"""Checkpoints of a run: complete or not there, sharded, readable by another number of processes."""

import pickle
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


class _Plain(pickle.Unpickler):
    """Reads what torch's checkpoints keep of their tensors, and can make nothing else."""

    def find_class(self, module_name: str, global_name: str) -> Any:
        """Allow descriptions of tensors, sizes and types."""
        known = module_name.startswith("torch.distributed.checkpoint.metadata") or (
            (module_name, global_name)
            in (
                ("collections", "OrderedDict"),
                ("pathlib", "PosixPath"),
                ("pathlib._local", "PosixPath"),
                ("torch", "Size"),
                ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
                ("torch.serialization", "_get_layout"),
            )
        )
        if known or (
            module_name == "torch" and isinstance(getattr(torch, global_name, None), torch.dtype)
        ):
            return super().find_class(module_name, global_name)
        raise WeightsError(
            f"A checkpoint that asks for {module_name}.{global_name} was not written by a trainer; "
            "it is not read."
        )


def _require_plain(path: Path) -> None:
    """Refuse a checkpoint whose description, a pickle, would do more than describe tensors."""
    try:
        with path.open("rb") as file:
            _Plain(file).load()
    except (OSError, pickle.UnpicklingError, EOFError) as error:
        raise WeightsError(
            f"{path} cannot be read ({error}): the checkpoint is damaged."
        ) from error


@contextmanager
def _alone_without_a_warning() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)
        yield
