"""Exit codes of the command line; a supervisor restarts on none of 2, 77 and 78."""

from af_core.errors import (
    AvatarForcingError,
    ConfigError,
    GeometryError,
    PipelineError,
    PluginError,
    WeightsError,
)

from af_runtime.errors import (
    AccessError,
    BusyError,
    ConnectionLostError,
    DownloadError,
    KeysError,
    RecordingError,
    RequestError,
    ServiceError,
    StageFailedError,
    UnavailableError,
)

FAILED = 1
USAGE = 2
UNAVAILABLE = 69
INTERNAL = 70
TRY_LATER = 75
NO_ACCESS = 77
BAD_CONFIG = 78
INTERRUPTED = 130


def exit_code(error: AvatarForcingError) -> int:
    """Return the code with which an error ends the command."""
    if isinstance(error, PipelineError | PluginError | ConfigError | GeometryError | WeightsError):
        return BAD_CONFIG
    if isinstance(error, RecordingError):
        return BAD_CONFIG
    if isinstance(error, RequestError):
        return USAGE
    if isinstance(error, StageFailedError):
        return INTERNAL
    if isinstance(error, DownloadError | BusyError):
        return TRY_LATER
    if isinstance(error, AccessError | KeysError):
        return NO_ACCESS
    if isinstance(error, UnavailableError | ConnectionLostError):
        return UNAVAILABLE
    return TRY_LATER if isinstance(error, ServiceError) and error.retryable else FAILED
