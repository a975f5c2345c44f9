"""What can go wrong around the engine: with a request, with a file, with this machine."""

from af_core.errors import AvatarForcingError


class RequestError(AvatarForcingError):
    """What was asked for cannot be done as written, such as an output in a missing folder."""


class PortraitError(AvatarForcingError):
    """This picture cannot be used as a portrait; the message says why and what would work."""


class MediaError(AvatarForcingError):
    """A video could not be written, for instance because the disk is full."""


class UnavailableError(AvatarForcingError):
    """This machine lacks something that is needed, such as an H.264 encoder."""


class DownloadError(AvatarForcingError):
    """A file did not arrive, or not as it should be; trying again later may help."""


class AccessError(AvatarForcingError):
    """The hub does not let this user have a file; a token or an accepted licence would help."""


class ProtocolError(AvatarForcingError):
    """A message that the wire protocol does not allow; ``code`` is one of docs/protocol.md."""

    def __init__(self, code: str, message: str, session: str | None = None) -> None:
        self.code = code
        self.session = session
        """The session whose message it was, if that could be read."""
        self.retry_after_ms = 0
        """When the same would be allowed, if that is known."""
        super().__init__(message)


class ServiceError(AvatarForcingError):
    """A stream worker refused something or failed; ``code`` is one of docs/protocol.md."""

    def __init__(self, code: str, message: str, *, retryable: bool = False) -> None:
        self.code = code
        self.retryable = retryable
        super().__init__(message)


class ConnectionLostError(ServiceError):
    """A stream worker does not answer, or not any more."""


class PeerGoneError(AvatarForcingError):
    """The other end of a transport has gone, or is no use: see `PeerSlowError`."""


class PeerSlowError(PeerGoneError):
    """The other end is there, but does not read what it has asked for."""


class BusyError(UnavailableError):
    """What is needed is in use just now, such as a port; trying again later may help."""


class KeysError(AvatarForcingError):
    """Keys are missing, wrong or readable by others, or there should be some."""


class RecordingError(AvatarForcingError):
    """A recording cannot be read, or not be replayed with this pipeline; the message says why."""


class StageFailedError(AvatarForcingError):
    """A stage process cannot be begun, ended too often, or could not do a piece of work."""


class StageLostError(StageFailedError):
    """A stage process has ended before it had answered; the work may be given to its successor."""
