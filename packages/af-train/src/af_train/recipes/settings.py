"""Options of recipes from the command line: PATH.TO.NAME=VALUE, checked, with a hint for slips."""

import difflib
import re
from collections.abc import Sequence
from typing import Any, TypeVar

import msgspec
from af_core.errors import AvatarForcingError

ConfigT = TypeVar("ConfigT", bound=msgspec.Struct)


class UnknownNameError(AvatarForcingError):
    """No recipe or suite has this name."""


class SettingError(AvatarForcingError):
    """A setting has an unknown name or a value that does not fit."""


def parse_settings(config: type[ConfigT], settings: Sequence[str]) -> ConfigT:
    """Return the config with ``settings`` such as ``student_steps=500`` applied."""
    values: dict[str, Any] = {}
    for setting in settings:
        name, value = _split(setting)
        _require(name, config.__struct_fields__)
        values[name] = value
    return _converted(values, config)


def with_settings(config: ConfigT, settings: Sequence[str]) -> ConfigT:
    """Return a config with ``settings`` such as ``dmd.trainer.steps=500`` applied."""
    document = msgspec.to_builtins(config)
    for setting in settings:
        path, value = _split(setting)
        *parents, name = path.split(".")
        table = document
        for parent in parents:
            table = _enter(table, parent)
        if not parents or parents[-1] != "options":  # whose names the objective checks
            _enter(table, name)
        table[name] = value
    return _converted(document, type(config))


def _split(setting: str) -> tuple[str, Any]:
    """Return name and value; values are JSON where they can be read as such, words otherwise."""
    name, equals, value = setting.partition("=")
    if not equals:
        raise SettingError(f"--set takes NAME=VALUE, got {setting!r}.")
    try:
        return name, msgspec.json.decode(value)
    except msgspec.DecodeError:
        return name, value


def _converted(values: dict[str, Any], config: type[ConfigT]) -> ConfigT:
    try:
        return msgspec.convert(values, config, strict=False)
    except msgspec.ValidationError as error:
        raise SettingError(f"A setting does not fit: {error}{_seen(values, str(error))}") from error


def _seen(values: Any, message: str) -> str:
    """Return what stands where a message says that something is wrong: ``... - at `$.a.b```."""
    for name in re.findall(r"\w+", message.partition("`$")[2]):
        values = values.get(name) if isinstance(values, dict) else None
    if values is None:
        return ""
    is_text = isinstance(values, str) and values.startswith("{")
    hint = "; write JSON in quotes, '{\"name\": 1}'" if is_text else ""
    return f" (seen: {values!r}{hint})"


def _enter(table: Any, name: str) -> Any:
    _require(name, list(table) if isinstance(table, dict) else [])
    return table[name]


def _require(name: str, known: Sequence[str]) -> None:
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise SettingError(f"No setting {name!r}.{hint} There are: {', '.join(known) or 'none'}.")
