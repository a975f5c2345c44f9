"""Decodes plain data into msgspec Structs and reports everything that is wrong at once.

msgspec stops at the first error; a person who writes a pipeline wants the whole list.
"""

import re
import types
from collections.abc import Mapping
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

import msgspec

from af_core.errors import AvatarForcingError
from af_core.problems import Problem, did_you_mean, unknown

StructT = TypeVar("StructT", bound=msgspec.Struct)
_EXPECTED = re.compile(r"Expected (?P<want>.*?), got (?P<have>.*?)(?: - at `\$(?P<where>.*)`)?$")


def decode(data: object, struct: type[StructT], path: str) -> tuple[StructT | None, list[Problem]]:
    """Return the Struct, or None together with every problem found in ``data``.

    ``path`` is where the data stands in its file; problems name their place below it.
    """
    if not isinstance(data, Mapping):
        return None, [_wrong_type(path, "a table of keys and values", data)]
    fields = {field.encode_name: field for field in msgspec.structs.fields(struct)}
    problems = [_unknown_key(path, str(key), fields) for key in data if key not in fields]
    values: dict[str, Any] = {}
    for key, field in fields.items():
        where = _join(path, key)
        if key in data:
            values[field.name], found = _value(data[key], field.type, where)
            problems += found
        elif field.required:
            problems.append(_missing(where, field.type))
    if problems:
        return None, problems
    try:
        return struct(**values), []
    except (AvatarForcingError, ValueError, TypeError, msgspec.ValidationError) as e:
        return None, [Problem("bad_value", path, str(e))]


def _value(data: object, kind: Any, path: str) -> tuple[Any, list[Problem]]:
    """Decode one value; nested Structs and tables of Structs are entered to find all errors."""
    struct = _struct_in(kind)
    if struct is not None and isinstance(data, Mapping):
        return decode(data, struct, path)
    if get_origin(kind) is dict and isinstance(data, Mapping):
        inner = get_args(kind)[1]
        pairs = {str(key): _value(item, inner, _join(path, str(key))) for key, item in data.items()}
        return (
            {key: value for key, (value, _) in pairs.items()},
            [problem for _, found in pairs.values() for problem in found],
        )
    try:
        return msgspec.convert(data, kind), []
    except msgspec.ValidationError as e:
        return None, [_bad_value(path, data, kind, str(e))]


def _struct_in(kind: Any) -> type[msgspec.Struct] | None:
    options = get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)
    for option in options:
        if isinstance(option, type) and issubclass(option, msgspec.Struct):
            return option
    return None


def _unknown_key(path: str, key: str, fields: Mapping[str, Any]) -> Problem:
    what = "option" if path else "key"
    return unknown("unknown_key", _join(path, key), what, key, fields, fix="{name}: ...")


def _missing(path: str, kind: Any) -> Problem:
    key = path.rpartition(".")[2]
    return Problem("missing_key", path, f"{key!r} is required.", _type_text(kind), "nothing")


def _bad_value(path: str, data: object, kind: Any, text: str) -> Problem:
    choices = _choices(kind)
    if choices:
        close = did_you_mean(str(data), choices)
        return Problem(
            "bad_value",
            path,
            f"{data!r} is not one of the choices." + (f" Did you mean {close!r}?" if close else ""),
            f"one of: {', '.join(choices)}",
            repr(data),
            close,
        )
    match = _EXPECTED.search(text)
    if match is None:
        return Problem("bad_value", path, f"{text}.", _type_text(kind), repr(data))
    want = match["want"].replace("`", "")
    where = path + (match["where"] or "")
    return Problem("bad_value", where, "The value has the wrong type.", want, _short(data))


def _wrong_type(path: str, expected: str, data: object) -> Problem:
    return Problem("bad_value", path, "The value has the wrong type.", expected, _short(data))


def _choices(kind: Any) -> list[str]:
    options = get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)
    return [str(c) for option in options if get_origin(option) is Literal for c in get_args(option)]


def _type_text(kind: Any) -> str:
    return kind.__name__ if isinstance(kind, type) and not get_args(kind) else str(kind)


def _short(data: object) -> str:
    text = repr(data)
    return f"{text if len(text) <= 60 else text[:57] + '...'} ({type(data).__name__})"


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key
