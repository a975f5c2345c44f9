"""Reads pipeline files: YAML or TOML, with ``extends`` and ``--set`` overrides, as plain tables."""

import tomllib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import attrs
import yaml

from af_core.errors import PipelineError, UnknownNameError
from af_core.graph.spec import IN_WEIGHTS_DIR, PATH_OPTIONS, STAGE_KEYS, WEIGHTS_DIR
from af_core.plugins.registry import Catalog
from af_core.problems import Problem, did_you_mean

SUFFIXES = (".yaml", ".yml", ".toml")


@attrs.frozen
class Document:
    """The table of a pipeline file, with absolute paths and its base merged in."""

    table: dict[str, Any]
    origin: str
    """The file it was read from."""
    provider: str = ""
    """Distribution of the preset, empty for a file."""


_MERGE = "tag:yaml.org,2002:merge"


class _StrictLoader(yaml.SafeLoader):
    """A safe loader that refuses a key written twice, which YAML would silently let win."""


def _mapping(loader: _StrictLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[Any] = set()
    for key_node, _ in node.value:
        if key_node.tag == _MERGE:  # `<<: *anchor`; keys written beside it win
            continue
        key = loader.construct_object(key_node, deep=True)
        if isinstance(key, list | dict):
            raise yaml.constructor.ConstructorError(
                None, None, f"{key} cannot be a key; quote it if it is text", key_node.start_mark
            )
        if key in seen:
            raise yaml.constructor.ConstructorError(
                None, None, f"the key {key!r} is written twice", key_node.start_mark
            )
        seen.add(key)
    return loader.construct_mapping(node, deep=True)


_StrictLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def read_document(name: str, catalog: Catalog) -> Document:
    """Return the document of a preset or of a file.

    Anything with a ``/`` or the suffix of a pipeline file is a path, all else a preset's name.
    Raises ``PipelineError`` or ``UnknownNameError``.
    """
    return _read(name, catalog, ())


def _read(name: str, catalog: Catalog, above: tuple[str, ...]) -> Document:
    if name in above:
        loop = " -> ".join((*above, name))
        raise PipelineError([Problem("cycle", "extends", "Pipelines extend each other.", got=loop)])
    if "/" in name or Path(name).suffix in SUFFIXES:
        path, provider = Path(name), ""
    else:
        path, provider = _preset(name, catalog)
    table = _with_absolute_paths(parse_file(path), path.parent)
    base_name = table.pop("extends", None)
    if base_name is None:
        return Document(table, str(path), provider)
    base = _read(_base(base_name, path), catalog, (*above, name))
    return Document(merged(base.table, table), str(path), provider)


def _preset(name: str, catalog: Catalog) -> tuple[Path, str]:
    try:
        offer = catalog.get("preset", name)
    except UnknownNameError as e:
        problem = e.problems[0]
        hint = problem.suggestion or f"a file: ./{name}.yaml"
        raise UnknownNameError(
            [Problem(problem.code, "preset", problem.message, problem.expected, name, hint)]
        ) from e
    if offer.file is None:
        raise PipelineError([Problem("bad_preset", name, "The preset has no file.")])
    return offer.file, offer.provider


def _base(value: object, path: Path) -> str:
    if not isinstance(value, str):
        raise PipelineError(
            [Problem("bad_value", "extends", "The value has the wrong type.", "str", repr(value))]
        )
    is_path = "/" in value or Path(value).suffix in SUFFIXES
    return str(path.parent / value) if is_path else value


def parse_file(path: Path) -> dict[str, Any]:
    """Return the table in a YAML or TOML file; raise ``PipelineError`` if there is none."""
    parse = {".toml": tomllib.loads}.get(path.suffix, _yaml)
    try:
        data = _parsed(path.read_text(encoding="utf-8"), parse, str(path))
    except FileNotFoundError as e:
        raise PipelineError([_no_file(path)]) from e
    except (OSError, UnicodeDecodeError) as e:
        text = f"The pipeline file cannot be read: {e}"
        raise PipelineError([Problem("unreadable", str(path), text)]) from e
    if not isinstance(data, dict):
        kind = type(data).__name__
        text = "The file holds no table of keys and values."
        raise PipelineError([Problem("bad_value", str(path), text, "schema_version: 1 ...", kind)])
    return data


def _yaml(text: str) -> Any:
    return yaml.load(text, Loader=_StrictLoader)


def _parsed(text: str, parse: Callable[[str], Any], path: str) -> Any:
    try:
        return parse(text)
    except (yaml.YAMLError, ValueError) as e:  # TOML's errors, and dates that do not exist
        message = " ".join(str(e).split()).replace('"<unicode string>", ', "")
        problem = Problem("syntax", path, f"The file is not well formed: {message}")
        raise PipelineError([problem]) from e


def _no_file(path: Path) -> Problem:
    folder = path.parent
    there = [p.name for p in folder.iterdir() if p.suffix in SUFFIXES] if folder.is_dir() else []
    close = did_you_mean(path.name, there)
    return Problem(
        "no_such_file",
        str(path),
        "There is no such pipeline file.",
        f"a YAML or TOML file{': ' + ', '.join(sorted(there)) if there else ''}",
        str(path),
        str(folder / close) if close else None,
    )


def _with_absolute_paths(table: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return the table with the paths of every stage made absolute, so that it can be moved."""

    def fixed(stage: Any) -> Any:
        if not isinstance(stage, dict):
            return stage
        paths = {key: stage[key] for key in PATH_OPTIONS if isinstance(stage.get(key), str)}
        here = {key: path for key, path in paths.items() if not path.startswith(IN_WEIGHTS_DIR)}
        return {**stage, **{key: str((folder / path).resolve()) for key, path in here.items()}}

    out = with_stages(table, fixed)
    if isinstance(where := table.get(WEIGHTS_DIR), str):
        out[WEIGHTS_DIR] = str((folder / where).resolve())
    return out


def with_stages(table: Mapping[str, Any], change: Callable[[Any], Any]) -> dict[str, Any]:
    """Return the table with every stage and node changed."""
    nodes = table.get("nodes")
    out = {key: change(value) if key in STAGE_KEYS else value for key, value in table.items()}
    if isinstance(nodes, Mapping):
        out["nodes"] = {name: change(node) for name, node in nodes.items()}
    return out


def in_weights_dir(table: Mapping[str, Any]) -> tuple[dict[str, Any], list[Problem]]:
    """Return the table with ``@/`` at the front of paths replaced by its ``weights_dir``.

    Without one, these options are left out, which is a problem unless nothing is to be loaded; so
    is a folder that is not there, and one that nothing is read from.
    """
    folder = table.get(WEIGHTS_DIR)
    is_there = isinstance(folder, str) and Path(folder).is_dir()
    marked: list[str] = []

    def fixed(stage: Any) -> Any:
        if not isinstance(stage, Mapping):
            return stage
        own = {key: stage[key] for key in PATH_OPTIONS if _is_marked(stage.get(key))}
        found = {key: path.removeprefix(IN_WEIGHTS_DIR) for key, path in own.items()}
        marked.extend(found.values())
        if is_there:
            return {**stage, **{key: str(Path(str(folder), path)) for key, path in found.items()}}
        return {key: value for key, value in stage.items() if key not in own}

    out = with_stages(table, fixed)
    if isinstance(folder, str) and not marked:
        return out, [_unused(folder)]
    if is_there or not marked:
        return out, []
    return out, [_no_folder(folder, dict.fromkeys(marked))]


def _no_folder(folder: object, files: Iterable[str]) -> Problem:
    text = f"These weights are published and not shipped: {', '.join(files)}."
    fix = "--set weights_dir=DIR, or generate --weights DIR"
    if isinstance(folder, str):
        text = "This is no folder." if Path(folder).exists() else "The folder is not there."
    want = "the folder that `af-runtime download` filled"
    got = folder if isinstance(folder, str) else None
    return Problem("no_weights_dir", WEIGHTS_DIR, text, want, got, fix)


def _unused(folder: str) -> Problem:
    text = f"No path of this pipeline begins with {IN_WEIGHTS_DIR}, so nothing is read from there."
    return Problem("unused_weights_dir", WEIGHTS_DIR, text, got=folder, suggestion="leave it out")


def _is_marked(path: object) -> bool:
    return isinstance(path, str) and path.startswith(IN_WEIGHTS_DIR)


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``base`` with ``over`` written on top.

    Tables merge key by key, except that a stage whose ``use`` changes starts from nothing. An empty
    table empties: ``nodes: {}`` takes the nodes of the base away.
    """
    out = dict(base)
    for key, value in over.items():
        old = out.get(key)
        if isinstance(old, Mapping) and isinstance(value, Mapping) and value:
            another = "use" in value and value["use"] != old.get("use")
            out[key] = dict(value) if another else merged(old, value)
        else:
            out[key] = value
    return out


def with_overrides(table: dict[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return the table with dotted overrides such as ``{"window_scheduler.num_passes": 2}``."""
    for path, value in overrides.items():
        nested: Any = value
        for key in reversed(path.split(".")):
            nested = {key: nested}
        _require_tables(table, path)
        table = merged(table, nested)
    return table


def _require_tables(table: Mapping[str, Any], path: str) -> None:
    """Refuse an override that would enter a value as if it were a table."""
    *parents, _ = path.split(".")
    here: Any = table
    for depth, key in enumerate(parents):
        if not isinstance(here, Mapping) or key not in here:
            return
        here = here[key]
        if not isinstance(here, Mapping):
            where = ".".join(parents[: depth + 1])
            text = f"{where!r} is a value, it has no keys below it."
            raise PipelineError(
                [Problem("bad_override", path, text, f"{where}=VALUE", path, f"--set {where}=...")]
            )


def parse_overrides(pairs: list[str]) -> dict[str, Any]:
    """Return ``{"a.b": value}`` for command-line texts ``a.b=c``; values are read as YAML.

    A prompt is taken as it stands, whatever is in it.
    """
    out: dict[str, Any] = {}
    for pair in pairs:
        path, equals, text = pair.partition("=")
        if not equals or not all(path.split(".")):
            message = "An override is written key.key=value."
            raise PipelineError([Problem("bad_override", f"--set {pair}", message, "a.b=c", pair)])
        out[path] = text if path == "prompt" else _parsed(text, _yaml, f"--set {pair}")
        is_path = path == WEIGHTS_DIR or path.rpartition(".")[2] in PATH_OPTIONS
        if is_path and isinstance(out[path], str) and not out[path].startswith(IN_WEIGHTS_DIR):
            out[path] = str(Path(out[path]).resolve())
    return out
