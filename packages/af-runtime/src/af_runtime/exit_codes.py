"""Exit codes of the command line; a supervisor restarts on neither 2 nor 78."""

from af_core.errors import (
    AvatarForcingError,
    ConfigError,
    GeometryError,
    PipelineError,
    PluginError,
    WeightsError,
)

from af_runtime.errors import RequestError, UnavailableError

FAILED = 1
USAGE = 2
UNAVAILABLE = 69
BAD_CONFIG = 78
INTERRUPTED = 130


def exit_code(error: AvatarForcingError) -> int:
    """Return the code with which an error ends the command."""
    if isinstance(error, PipelineError | PluginError | ConfigError | GeometryError | WeightsError):
        return BAD_CONFIG
    if isinstance(error, RequestError):
        return USAGE
    return UNAVAILABLE if isinstance(error, UnavailableError) else FAILED
