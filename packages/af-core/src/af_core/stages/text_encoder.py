"""Text encoder: prompts in, embeddings out, once per stream."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from af_core.tensors import TextRows


@runtime_checkable
class TextEncoder(Protocol):
    """Turns prompts into rows of embeddings; rows of padding are zero and are attended to."""

    def encode(self, prompts: Sequence[str]) -> TextRows:
        """Return ``[b, token, d]``."""
        ...
