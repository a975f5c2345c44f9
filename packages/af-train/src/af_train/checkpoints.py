"""Checkpoints of a run: complete or not there, sharded, readable by another number of processes."""

import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
from af_core.errors import ConfigError
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
    with _alone_without_a_warning():
        load(dict(state), checkpoint_id=checkpoint, no_dist=world.size == 1)


@contextmanager
def _alone_without_a_warning() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)
        yield
