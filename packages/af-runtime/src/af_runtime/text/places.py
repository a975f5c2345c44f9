"""Where a user's encoded prompts are kept unless a pipeline says otherwise."""

import os
from pathlib import Path

VARIABLE = "AF_CACHE"
"""Names the folder of everything the SDK keeps for a user."""


def user_cache(name: str) -> Path:
    """Return the folder ``name`` of the user's cache; it may not be there yet.

    It lies in ``$AF_CACHE``, or else in ``$XDG_CACHE_HOME/avatarforcing``, or else in
    ``~/.cache/avatarforcing``. As the XDG specification asks, a relative path there is ignored.
    """
    own = os.environ.get(VARIABLE)
    if own:
        return Path(os.path.expanduser(own)).absolute() / name
    home = Path(os.environ.get("XDG_CACHE_HOME", ""))
    base = home if home.is_absolute() else Path(os.path.expanduser("~/.cache"))
    return base / "avatarforcing" / name
