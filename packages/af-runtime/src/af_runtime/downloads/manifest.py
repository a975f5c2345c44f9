"""What a published checkpoint consists of: repositories, files, licences. Data, in TOML files."""

from importlib import resources
from typing import Any

import msgspec
from af_core.errors import UnknownNameError
from af_core.problems import unknown


class Source(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A repository of the hub."""

    repo: str
    """Its name, ``owner/name``."""
    licence: str
    """Licence of its files as its publishers state it, to be shown before anything is fetched."""
    revision: str = "main"
    """Branch, tag or commit to take; what it stood for is written into the lock file."""


class Wanted(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file of a repository, or several, and where they go."""

    find: list[str]
    """Patterns of names in the repository; the first that finds something is taken."""
    to: str
    """Path in the folder; one that ends in ``/`` takes everything found, under its last name."""
    skip: list[str] = []
    """Patterns of names that are not meant although they are found."""

    @property
    def is_folder(self) -> bool:
        """Whether what is found goes into a folder."""
        return self.to.endswith("/")


class Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one stage needs; parts can be fetched alone."""

    source: str
    """Name of the repository among the sources."""
    about: str
    files: list[Wanted]
    on_request: bool = False
    """Whether it is left out unless it is asked for by name."""


class ByHand(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An optional file that is not on the hub."""

    path: str
    about: str
    where: str


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A published checkpoint."""

    schema_version: int
    name: str
    summary: str
    notice: str
    """What must be said about licences before anything is fetched; may be empty."""
    sources: dict[str, Source]
    parts: dict[str, Part]
    by_hand: list[ByHand] = []


def manifest_names() -> list[str]:
    """Return the checkpoints that can be downloaded."""
    return sorted(p.name.removesuffix(".toml") for p in _folder().iterdir() if _is_manifest(p))


def read_manifest(name: str) -> Manifest:
    """Return a manifest; ``UnknownNameError`` lists the names there are."""
    names = manifest_names()
    if name not in names:
        raise UnknownNameError([unknown("unknown_checkpoint", "", "checkpoint", name, names)])
    return msgspec.toml.decode((_folder() / f"{name}.toml").read_bytes(), type=Manifest)


def _folder() -> Any:
    return resources.files("af_runtime.downloads")


def _is_manifest(path: Any) -> bool:
    return path.name.endswith(".toml")
