"""Options of the text encoder that looks prompts up; a pipeline is checked without torch."""

from pathlib import Path
from typing import Any

import msgspec

from af_core.errors import PromptError
from af_core.geometry import Geometry
from af_core.plugins.contract import BuildContext
from af_core.ports import Declaration, Format, Port, text_rows
from af_core.problems import Problem
from af_core.prompts.lookup import find_prompts, require_size


class CachedPromptOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Embeddings of prompts that were encoded before; needs no text encoder and no weights."""

    file: str
    """Prompt cache that ``af-runtime prompts encode`` wrote, or a folder of such files."""
    model: str | None = None
    """Hash of the text encoder, or its beginning; None takes the only one in the file."""
    text_len: int = 512
    """Rows of an embedding, padding included."""
    text_dim: int = 4096
    """Width of an embedding."""

    def declare(self, geometry: Geometry) -> Declaration:
        """Return a prompt in, rows out."""
        return Declaration(
            (Port("prompt", Format("text")),),
            (Port("embeddings", text_rows(self.text_dim)),),
            num_parameters=0,
            facts={"prompts": f"looked up in {self.file}"},
        )

    def prompt_problems(self, prompt: str) -> list[Problem]:
        """Return why this prompt cannot be looked up, without torch."""
        try:
            (entry,) = find_prompts(Path(self.file), [prompt], self.model)
            require_size(entry.num_rows, entry.dim, self.text_len, self.text_dim)
        except PromptError as e:
            return list(e.problems)
        return []

    def build(self, context: BuildContext) -> Any:
        """Build the encoder."""
        from af_core.prompts.cached_encoder import CachedPromptEncoder

        return CachedPromptEncoder(
            Path(self.file), self.text_len, self.text_dim, self.model, context.device
        )
