"""What a plugin registers: a config that declares and builds a stage, and what it may rely on."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import attrs
import msgspec

from af_core.geometry import Geometry
from af_core.plugins.kinds import Kind
from af_core.ports import Declaration
from af_core.problems import Problem


@attrs.frozen
class BuildContext:
    """What a config may use when it builds its stage."""

    geometry: Geometry
    """Sizes of the pipeline the stage is built for."""
    directory: Path = Path()
    """Folder of the pipeline file; relative weight paths start here."""
    device: str = "cpu"
    """Device the stage was placed on, by torch's name."""
    precision: str = "float32"
    """Floating-point type of the weights, by torch's name."""
    stages: Mapping[str, Any] = attrs.field(factory=dict)
    """Stages built before this one, by kind; the order is that of ``kinds.KINDS``."""

    def path(self, weights: str) -> Path:
        """Return the absolute path of a weights file named in the pipeline."""
        return self.directory / weights


class StageConfig(Protocol):
    """The options of one stage: a frozen ``msgspec.Struct`` that forbids unknown fields.

    Neither method may be slow or import torch before ``build`` is called, so that listing,
    validating and explaining run anywhere.
    """

    def declare(self, geometry: Geometry) -> Declaration:
        """Return ports, delay and memory; needed for kinds that stand in the graph."""
        ...

    def build(self, context: BuildContext) -> Any:
        """Construct the stage; torch is imported and weights are read here, not earlier."""
        ...


@runtime_checkable
class Declares(Protocol):
    """A config that tells about its stage before it is built."""

    def declare(self, geometry: Geometry) -> Declaration:
        """Return ports, delay and memory."""
        ...


@runtime_checkable
class PreviewsLadder(Protocol):
    """A noise schedule's config that can tell its levels without torch; ``explain`` shows them."""

    def preview_ladder(self, num_rungs: int) -> list[float]:
        """Return the levels, noisiest first; raise ``ConfigError`` if they cannot be so many."""
        ...


@runtime_checkable
class ChecksPrompt(Protocol):
    """A text encoder's config that can tell without torch whether a prompt can be encoded.

    Its files are needed for some prompts only and are let go afterwards: it checks them itself,
    and their weights are not counted among those that are held.
    """

    def prompt_problems(self, prompt: str) -> list[Problem]:
        """Return what keeps this prompt from being encoded, missing files included."""
        ...


@runtime_checkable
class ChecksWeights(Protocol):
    """A config whose ``weights`` are not one safetensors file, and who can tell if they are there.

    They may be a folder, say, with a configuration beside the tensors.
    """

    def weights_faults(self) -> list[str]:
        """Return what is wrong with the files, without reading them; empty when nothing."""
        ...


def config_faults(kind: Kind, config: object) -> list[str]:
    """Return what keeps ``config`` from being registered as that kind; empty when nothing."""
    if not (isinstance(config, type) and issubclass(config, msgspec.Struct)):
        return [f"is {_named(config)}, not a msgspec.Struct class"]
    settings = config.__struct_config__
    needs: tuple[tuple[bool, str], ...] = (
        (settings.frozen, "is not frozen: write class Name(msgspec.Struct, frozen=True, ...)"),
        (
            settings.forbid_unknown_fields,
            "lets misspelt options pass: write forbid_unknown_fields=True",
        ),
        (_callable(config, "build"), "has no method build(self, context)"),
        (
            not kind.declares or _callable(config, "declare"),
            "has no method declare(self, geometry), which a "
            f"{kind.words} needs to stand in the graph",
        ),
    )
    return [fault for holds, fault in needs if not holds]


def _callable(config: type, name: str) -> bool:
    method: Callable[..., Any] | None = getattr(config, name, None)
    return callable(method)


def _named(config: object) -> str:
    return f"the class {config.__name__}" if isinstance(config, type) else repr(config)
