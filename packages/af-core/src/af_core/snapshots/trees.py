"""States taken apart into plain values and tensors, and put together again. No code is run.

A state is a tree of attrs classes, dataclasses, named tuples, enums, containers, numbers and
tensors. A class travels by its name. Putting a state together looks the name up among modules that
are imported already, in packages that are allowed, and fills the fields in; no ``__init__`` is
called, so a forged tree can make values, wrong ones too, but do nothing.
"""

import dataclasses
import enum
import sys
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping
from typing import Any

import attrs
import numpy as np
import torch
from torch import Tensor

from af_core.errors import SnapshotError

Tree = Any
"""None, a bool, an int of 64 bits, a float, a str; or a list: a tag and what it holds."""

DEPTH = 64
"""Levels of a tree at most."""

_CONTAINERS: Mapping[str, type] = {"tuple": tuple, "list": list, "frozenset": frozenset, "set": set}


class Packer:
    """Takes values apart; the tensors of all of them are gathered in ``tensors``, each once."""

    def __init__(self, packages: Collection[str]) -> None:
        self.tensors: list[Tensor] = []
        self._packages = packages
        self._seen: dict[int, int] = {}
        self._alive: list[Tensor] = []

    def pack(self, value: Any, path: str) -> Tree:
        """Return the tree of a value; raises `SnapshotError` with the path of what is not plain."""
        if value is None or type(value) in (bool, float, str):
            return value
        if type(value) is int:
            return value if -(2**63) <= value < 2**63 else ["int", str(value)]
        if isinstance(value, Tensor):
            return ["tensor", self._gathered(value)]
        if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
            return ["array", self._gathered(torch.from_numpy(np.array(value)))]
        if isinstance(value, enum.Enum):
            return ["enum", _class_name(type(value), path, self._packages), value.name]
        if type(value) is bytes:
            return ["bytes", value]
        if isinstance(value, Mapping) and type(value) in (dict, OrderedDict):
            tag = "dict" if type(value) is dict else "ordered"
            return [tag, *(self._item(key, one, path) for key, one in value.items())]
        for tag, kind in _CONTAINERS.items():
            if type(value) is kind or (kind is tuple and type(value) is torch.Size):
                parts = enumerate(value)
                return [tag, *(self.pack(one, f"{path}[{i}]") for i, one in parts)]
        name = _class_name(type(value), path, self._packages)
        return ["object", name, *self._fields(value, path)]

    def _item(self, key: Any, value: Any, path: str) -> list[Tree]:
        return [self.pack(key, f"{path} (key)"), self.pack(value, f"{path}[{key!r}]")]

    def _fields(self, value: Any, path: str) -> list[Tree]:
        named = ((name, getattr(value, name)) for name in _field_names(type(value)))
        return [[name, self.pack(one, f"{path}.{name}")] for name, one in named]

    def _gathered(self, tensor: Tensor) -> int:
        """Return the number of a tensor; the same one has the same number."""
        if id(tensor) not in self._seen:
            self._seen[id(tensor)] = len(self.tensors)
            self._alive.append(tensor)  # so that no other tensor gets its id
            self.tensors.append(tensor.detach())
        return self._seen[id(tensor)]


@attrs.frozen
class Unpacker:
    """Puts values together again."""

    tensors: list[Tensor]
    packages: Collection[str]
    """Top-level packages whose classes may be made."""

    def unpack(self, tree: Tree, depth: int = 0) -> Any:
        """Return the value of a tree; raises `SnapshotError` for what no `Packer` has made."""
        if tree is None or type(tree) in (bool, int, float, str):
            return tree
        if not isinstance(tree, list) or not tree or depth > DEPTH:
            what = "too many levels" if depth > DEPTH else f"a {type(tree).__name__}"
            raise SnapshotError(f"A state holds {what}, which no state has.")
        tag, *parts = tree
        make = _MAKERS.get(tag if isinstance(tag, str) else "")
        if make is None:
            raise SnapshotError(f"A state holds something of the unknown kind {str(tag)[:60]!r}.")
        try:
            return make(self, parts, depth + 1)
        except (TypeError, ValueError, IndexError) as e:
            raise SnapshotError(f"A part of a state of the kind {tag!r} is damaged: {e}.") from e

    def several(self, parts: list[Tree], depth: int) -> list[Any]:
        """Return the values of some trees."""
        return [self.unpack(part, depth) for part in parts]

    def tensor(self, parts: list[Tree]) -> Tensor:
        """Return the tensor of a number."""
        (index,) = parts
        if type(index) is not int or not 0 <= index < len(self.tensors):
            raise SnapshotError(f"There is no tensor {index!r}; there are {len(self.tensors)}.")
        return self.tensors[index]

    def built(self, parts: list[Tree], depth: int) -> Any:
        """Return an object of a class, its fields filled in."""
        name, *fields = parts
        kind = self._class(name)
        if issubclass(kind, enum.Enum):
            raise SnapshotError(f"{name} is an enum; its members are not built.")
        values = {str(key): self.unpack(value, depth) for key, value in fields}
        wanted = _field_names(kind)
        if set(values) != set(wanted):
            raise SnapshotError(f"{name} has the fields {wanted}, not {sorted(values)}.")
        if issubclass(kind, tuple):
            return tuple.__new__(kind, [values[field] for field in wanted])
        made = object.__new__(kind)
        for field, value in values.items():
            object.__setattr__(made, field, value)
        return made

    def member(self, parts: list[Tree]) -> Any:
        """Return the member of an enum."""
        name, member = parts
        kind: Any = self._class(name)
        found = kind.__members__.get(member) if issubclass(kind, enum.Enum) else None
        if found is None:
            raise SnapshotError(f"{name} has no member {member!r}.")
        return found

    def _class(self, name: Any) -> type:
        module, _, qualified = str(name).partition(":")
        if module.partition(".")[0] not in self.packages:
            raise SnapshotError(f"A state holds a {name}; {_allowed(self.packages)}")
        found: Any = sys.modules.get(module)
        for word in qualified.split("."):
            found = getattr(found, word, None)
        if not isinstance(found, type) or not _is_record(found):
            raise SnapshotError(
                f"A state holds a {name}, which this version of the package does not have."
            )
        return found


def _pairs(self: Unpacker, parts: list[Tree], depth: int) -> list[tuple[Any, Any]]:
    return [(self.unpack(key, depth), self.unpack(value, depth)) for key, value in parts]


_MAKERS: dict[str, Callable[[Unpacker, list[Tree], int], Any]] = {
    "int": lambda _, parts, __: int(*parts),
    "bytes": lambda _, parts, __: bytes(*parts),
    "tensor": lambda self, parts, _: self.tensor(parts),
    "array": lambda self, parts, _: self.tensor(parts).cpu().numpy(),
    "tuple": lambda self, parts, depth: tuple(self.several(parts, depth)),
    "list": lambda self, parts, depth: self.several(parts, depth),
    "set": lambda self, parts, depth: set(self.several(parts, depth)),
    "frozenset": lambda self, parts, depth: frozenset(self.several(parts, depth)),
    "dict": lambda self, parts, depth: dict(_pairs(self, parts, depth)),
    "ordered": lambda self, parts, depth: OrderedDict(_pairs(self, parts, depth)),
    "enum": lambda self, parts, _: self.member(parts),
    "object": lambda self, parts, depth: self.built(parts, depth),
}


def _is_record(kind: type) -> bool:
    is_named_tuple = issubclass(kind, tuple) and hasattr(kind, "_fields")
    is_record = attrs.has(kind) or dataclasses.is_dataclass(kind)
    return is_record or is_named_tuple or issubclass(kind, enum.Enum)


def _field_names(kind: Any) -> list[str]:
    if attrs.has(kind):
        return [field.name for field in attrs.fields(kind)]
    if dataclasses.is_dataclass(kind):
        return [field.name for field in dataclasses.fields(kind)]
    return list(kind._fields)


def _allowed(packages: Collection[str]) -> str:
    names = ", ".join(sorted(packages))
    return f"the states of this avatar's stages are made of classes from {names}."


def _class_name(kind: type, path: str, packages: Collection[str]) -> str:
    """Return ``module:Class``; raises `SnapshotError` for what cannot travel."""
    name = f"{kind.__module__}:{kind.__qualname__}"
    if not _is_record(kind):
        raise SnapshotError(
            f"{path} is a {name}, which cannot be put into a snapshot. A state is made of tensors, "
            "numbers, containers, attrs classes, dataclasses and named tuples; a stage that "
            "remembers anything else offers snapshot(state) and restore(saved): docs/plugins.md."
        )
    if "<locals>" in kind.__qualname__ or kind.__module__ == "__main__":
        raise SnapshotError(
            f"{path} is a {name}, which another process cannot find: define the class at the top "
            "of a module that can be imported."
        )
    if kind.__module__.partition(".")[0] not in packages:
        raise SnapshotError(f"{path} is a {name}; {_allowed(packages)}")
    return name
