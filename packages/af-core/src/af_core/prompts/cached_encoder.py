"""A text encoder that only remembers: every prompt it knows was encoded before."""

from collections.abc import Sequence
from pathlib import Path

import attrs

from af_core.prompts.cache import padded, read_prompts
from af_core.prompts.lookup import find_prompts
from af_core.tensors import TextRows


@attrs.frozen
class CachedPromptEncoder:
    """Looks prompts up in a cache; holds no weights."""

    cache: Path
    text_len: int
    text_dim: int
    model: str | None = None
    """Hash of the text encoder, or its beginning; None takes the only one there is."""
    device: str = "cpu"

    def encode(self, prompts: Sequence[str]) -> TextRows:
        """Return float32 ``[b, text_len, text_dim]``, rows of padding zero.

        Raises ``PromptError`` for a prompt that is not there, with what is and how to add it.
        """
        found = find_prompts(self.cache, prompts, self.model)
        return padded(read_prompts(found), self.text_len, self.text_dim).to(self.device)
