"""Where a pipeline comes from, so that every process can read it and be sure it is the same."""

import hashlib
import importlib
from typing import Any

import msgspec
from af_core.graph import open_pipeline
from af_core.graph.checked import Pipeline
from af_core.graph.placement import in_three_stages, placed
from af_core.graph.spec import ProcessSpec
from af_core.plugins import load_catalog
from af_core.plugins.registry import Catalog


class PipelineSource(msgspec.Struct, frozen=True, kw_only=True):
    """A preset or a pipeline file, and what is changed about it."""

    name: str
    """A preset, or the path of a file."""
    overrides: dict[str, Any] = {}
    """Dotted keys and their values."""
    plugins: dict[str, str] = {}
    """Modules that are plugins though they are not installed: name -> module."""
    placement: dict[str, ProcessSpec] | None = None
    """Replaces the placement of the pipeline."""

    def catalog(self) -> Catalog:
        """Load all plugins."""
        modules = {name: importlib.import_module(path) for name, path in self.plugins.items()}
        return load_catalog(extra=modules.items())

    def open(self, catalog: Catalog | None = None) -> Pipeline:
        """Return the checked pipeline; raise ``PipelineError`` with all errors."""
        pipeline = open_pipeline(self.name, self.overrides, catalog or self.catalog())
        return pipeline if self.placement is None else placed(pipeline, self.placement)

    def in_three_stages(self) -> "PipelineSource":
        """Return the same pipeline with the placement of `af_core.graph.placement`."""
        placement = in_three_stages(self.open()).spec.placement
        return msgspec.structs.replace(self, placement=placement)


def fingerprint(pipeline: Pipeline) -> str:
    """Return a digest of all that a pipeline says; it is the same in every process."""
    stages = {name: (stage.label, stage.config) for name, stage in sorted(pipeline.stages.items())}
    said = msgspec.json.encode([pipeline.spec, stages], order="sorted")
    return hashlib.sha256(said).hexdigest()


def plugin_set(catalog: Catalog) -> tuple[str, ...]:
    """Return the names and versions of all plugins that have loaded."""
    return tuple(sorted(f"{p.name} {p.version}" for p in catalog.plugins if p.status == "ok"))
