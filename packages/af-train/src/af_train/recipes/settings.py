"""Options of recipes from the command line: NAME=VALUE, checked, with a hint for slips."""

import difflib
from collections.abc import Sequence
from typing import TypeVar

import msgspec
from af_core.errors import AvatarForcingError

ConfigT = TypeVar("ConfigT", bound=msgspec.Struct)


class SettingError(AvatarForcingError):
    """A setting has an unknown name or a value that does not fit."""


def parse_settings(config: type[ConfigT], settings: Sequence[str]) -> ConfigT:
    """Return the config with ``settings`` such as ``student_steps=500`` applied."""
    values: dict[str, str] = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals:
            raise SettingError(f"--set takes NAME=VALUE, got {setting!r}.")
        if name not in config.__struct_fields__:
            close = difflib.get_close_matches(name, config.__struct_fields__, n=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            known = ", ".join(config.__struct_fields__)
            raise SettingError(f"No setting {name!r}.{hint} There are: {known}.")
        values[name] = value
    try:
        return msgspec.convert(values, config, strict=False)
    except msgspec.ValidationError as error:
        raise SettingError(f"A setting does not fit: {error}") from error
