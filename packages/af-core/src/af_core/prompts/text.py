"""Prompts as text: tidied, named by their content, short enough to be shown."""

import hashlib
import html

from af_core.errors import PromptError
from af_core.problems import Problem

SHOWN = 60
"""Letters of a prompt that messages show."""


def tidy(prompt: str) -> str:
    """Return the prompt with entities resolved, twice, and white space made single (spec 5.1).

    Encoding a prompt also mends broken letters (ftfy), before this. Raises ``PromptError`` for
    what is no text: half a letter, as a terminal that is not set to UTF-8 sends it.
    """
    try:
        prompt.encode()
    except UnicodeEncodeError as e:
        text = f"The prompt holds bytes that are no text, at letter {e.start}; write it in UTF-8."
        raise PromptError([Problem("bad_prompt", "prompt", text, got=shown(prompt))]) from e
    return " ".join(html.unescape(html.unescape(prompt)).split())


def prompt_key(prompt: str, model: str) -> str:
    """Return the name of the embedding of a cleaned prompt by a model: 64 hexadecimal digits.

    ``model`` is the hash of all that an embedding depends on besides the prompt.
    """
    return hashlib.sha256(f"{model}\n{prompt}".encode()).hexdigest()


def shown(prompt: str) -> str:
    """Return the beginning of a prompt in quotes, on one line."""
    return repr(prompt if len(prompt) <= SHOWN else f"{prompt[: SHOWN - 3]}...")
