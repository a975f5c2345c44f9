"""What is wrong with a piece of audio, in words for the person who brought it."""

from af_core.errors import AvatarForcingError


class AudioError(AvatarForcingError):
    """This audio cannot be used; the message says why, what was seen and what would work."""
