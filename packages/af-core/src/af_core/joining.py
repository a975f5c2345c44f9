"""Values of streams that were opened one by one, joined into those of one batch and parted again.

They may be tensors whose first axis is the stream, numbers, None, and tuples, lists, mappings and
attrs classes of such. Values of one `kind_of` can be joined.
"""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, TypeVar

import attrs
import torch
from torch import Tensor

ValueT = TypeVar("ValueT")


def kind_of(value: Any) -> Hashable:
    """Return what values must share to be joined: structure, shapes, types and plain numbers."""
    if isinstance(value, Tensor):
        return (value.shape[1:], value.dtype, value.device)
    if attrs.has(type(value)):
        return (type(value), *(kind_of(one) for one in _fields(value).values()))
    if isinstance(value, Mapping):
        return tuple((key, kind_of(one)) for key, one in value.items())
    if isinstance(value, tuple | list):
        return (type(value), *map(kind_of, value))
    return (type(value), value)


def joined(values: Sequence[Any]) -> Any:
    """Return one value for all streams; the values are of one kind."""
    first = values[0]
    if isinstance(first, Tensor):
        return torch.cat(list(values), dim=0)
    if attrs.has(type(first)):
        parts = [_fields(value) for value in values]
        return type(first)(**{name: joined([part[name] for part in parts]) for name in parts[0]})
    if isinstance(first, Mapping):
        return {key: joined([value[key] for value in values]) for key in first}
    if isinstance(first, tuple | list):
        return type(first)(joined(each) for each in zip(*values, strict=True))
    return first


def parted(value: ValueT, count: int) -> list[ValueT]:
    """Return the values of single streams; their tensors are views of the joined ones."""
    return [_part(value, i) for i in range(count)]


def groups(kinds: Sequence[Hashable | None]) -> list[list[int]]:
    """Return the places of equal kinds, in order of their first; what has no kind is alone."""
    found: dict[Hashable, list[int]] = {}
    for i, kind in enumerate(kinds):
        found.setdefault(("alone", i) if kind is None else kind, []).append(i)
    return list(found.values())


def _part(value: Any, i: int) -> Any:
    if isinstance(value, Tensor):
        return value[i : i + 1]
    if attrs.has(type(value)):
        return type(value)(**{name: _part(one, i) for name, one in _fields(value).items()})
    if isinstance(value, Mapping):
        return {key: _part(one, i) for key, one in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(_part(one, i) for one in value)
    return value


def _fields(value: Any) -> dict[str, Any]:
    return {one.alias: getattr(value, one.name) for one in attrs.fields(type(value))}
