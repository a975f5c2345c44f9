"""Every exception the SDK raises on purpose."""

from collections.abc import Iterable

from af_core.problems import Problem, listing


class AvatarForcingError(Exception):
    """Base of every exception the SDK raises on purpose."""


class GeometryError(AvatarForcingError):
    """Sizes that cannot be cut into whole tokens, latents or blocks."""


class ConfigError(AvatarForcingError):
    """Options that contradict each other or lie outside what they may be."""


class ShapeError(AvatarForcingError):
    """A tensor does not have the axes its stage promised."""


class StaleStreamStateError(AvatarForcingError):
    """A stream state was used after ``step`` had consumed it; keep the one it returned."""


class StreamEndedError(AvatarForcingError):
    """Speech was given to a stream that has begun to drain."""


class WeightsError(AvatarForcingError):
    """A weights file does not fit the model; the message lists every tensor at fault."""


class FixtureError(AvatarForcingError):
    """A parity fixture is not in the expected format."""


class PluginError(AvatarForcingError):
    """A plugin is missing or broken; the message names it and says what to write."""


class ProblemsError(AvatarForcingError):
    """One or more problems, all of them, each with its place and what would work.

    ``problems`` holds the same objects that ``--json`` prints.
    """

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__(listing(self.problems))


class StageContractError(PluginError):
    """A stage that runs broke a promise of its kind; the message names it and what it must do."""


class PluginConflictError(ProblemsError, PluginError):
    """Two plugins offer the same name; name the one you mean as ``distribution:name``."""


class UnknownNameError(ProblemsError, PluginError):
    """No plugin offers that name; the message lists those that exist."""


class PipelineError(ProblemsError):
    """A pipeline cannot be read, resolved or built."""


class PipelineConnectError(PipelineError):
    """An edge joins two ports that do not fit; the message shows both sides."""


class PromptError(PipelineError):
    """A prompt is no text, or in no cache; the message lists those that are."""


class StreamInputError(AvatarForcingError):
    """A portrait or speech that a stream cannot take: its shape, dtype or values."""


class SnapshotError(AvatarForcingError):
    """A stream cannot be put into a snapshot, or bytes are no snapshot; the message says where."""


class SnapshotMismatchError(SnapshotError):
    """A snapshot is of another avatar; the message names every field that differs."""
