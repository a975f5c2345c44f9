"""The packages that encode prompts: an extra, since a prompt in a cache needs none of them."""

from importlib.util import find_spec

from af_runtime.errors import UnavailableError

PACKAGES = ("ftfy", "transformers")
INSTALL = "pip install 'af-runtime[published]'"


def missing_packages() -> list[str]:
    """Return the packages of the extra that are not installed; nothing is imported."""
    return [name for name in PACKAGES if find_spec(name) is None]


def require_extra() -> None:
    """Raise ``UnavailableError`` with the command to type if a package of the extra is missing."""
    missing = missing_packages()
    if missing:
        raise UnavailableError(
            f"Encoding a prompt needs {' and '.join(missing)}, not installed here: {INSTALL}. "
            "A prompt that is in a cache needs neither."
        )
