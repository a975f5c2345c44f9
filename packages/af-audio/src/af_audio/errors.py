"""What is wrong with a piece of audio, in words for the person who brought it."""

from af_core.errors import AvatarForcingError


class AudioError(AvatarForcingError):
    """This audio cannot be used; the message says why, what was seen and what would work."""


class MissingPackageError(AvatarForcingError):
    """An optional package is not installed; the message is the command that installs it."""
