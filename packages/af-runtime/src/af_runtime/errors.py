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
