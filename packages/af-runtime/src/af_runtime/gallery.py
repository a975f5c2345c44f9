"""The portraits that are shipped with a preset, by name."""

from importlib import resources
from pathlib import Path

from af_core.problems import did_you_mean

from af_runtime.errors import PortraitError

HOME_PRESET = "toon"
"""The preset whose gallery serves presets, and pipeline files, that bring none of their own."""


def shipped_portraits(preset: str = HOME_PRESET) -> dict[str, Path]:
    """Return the shipped portraits of a preset by name, in alphabetical order."""
    return _pictures(preset) or _pictures(HOME_PRESET)


def find_portrait(name_or_path: str, preset: str = HOME_PRESET) -> Path:
    """Return the file of a portrait, given a path or the name of a shipped one.

    A file of that name wins over a shipped portrait; a name has neither folder nor ending.
    """
    path = Path(name_or_path)
    if path.exists():
        return path
    shipped = shipped_portraits(preset)
    if name_or_path in shipped:
        return shipped[name_or_path]
    if path.name != name_or_path or path.suffix:
        raise PortraitError(f"There is no portrait file {name_or_path}.")
    close = did_you_mean(name_or_path, shipped)
    hint = f" Did you mean {close!r}?" if close else ""
    names = f" Shipped: {', '.join(shipped)}." if shipped else ""
    raise PortraitError(
        f"There is no file and no shipped portrait named {name_or_path!r}.{hint}{names}"
    )


def _pictures(preset: str) -> dict[str, Path]:
    folder = Path(str(resources.files("af_core"))) / "presets" / Path(preset).stem / "gallery"
    return {path.stem: path for path in sorted(folder.glob("*.png"))}
