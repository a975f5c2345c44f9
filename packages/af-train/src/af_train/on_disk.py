"""Small JSON files of long jobs: whole or not there, and never mistaken for another job's."""

import os
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from af_core.errors import AvatarForcingError

StructT = TypeVar("StructT", bound=msgspec.Struct)


class AnotherJobError(AvatarForcingError):
    """A directory holds what another job has made."""


def write_whole(path: Path, data: bytes) -> None:
    """Write a file that is whole or not there, whoever else writes it."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    partial.write_bytes(data)
    partial.replace(path)


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON."""
    write_whole(path, msgspec.json.format(msgspec.json.encode(value), indent=1))


def read_json(path: Path, kind: type[StructT]) -> StructT:
    """Read a value; raises ``AnotherJobError`` for a file that holds something else."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except msgspec.MsgspecError as error:
        raise AnotherJobError(f"{path} cannot be read ({error}). Remove it and go on.") from error


def claim(path: Path, job: msgspec.Struct, ignoring: tuple[str, ...] = ()) -> None:
    """Leave ``job`` at ``path``, or insist that the job that is there already is the same.

    Raises ``AnotherJobError`` with the fields that differ; those in ``ignoring`` may.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        write_json(path, job)
        return
    there = read_json(path, type(job))
    names = [n for n in job.__struct_fields__ if n not in ignoring]
    differing = [n for n in names if getattr(there, n) != getattr(job, n)]
    if differing:
        told = "; ".join(
            f"{n} was {getattr(there, n)!r}, is {getattr(job, n)!r}" for n in differing
        )
        raise AnotherJobError(
            f"{path.parent} holds the work of another job: {told}. Take another directory, or "
            "the settings it was begun with."
        )
