"""The text encoder ``umt5``: a prompt is encoded once per model, and remembered on disk."""

import logging
from collections.abc import Sequence
from pathlib import Path

import attrs
from af_core.prompts.cache import EmbeddedPrompt, add_prompts, padded, read_prompts
from af_core.prompts.index import SUFFIX, Entry, read_index
from af_core.prompts.lookup import find_prompt
from af_core.tensors import TextRows

from af_runtime.text.encoding import embed_prompts
from af_runtime.text.files import EncoderFiles

_log = logging.getLogger(__name__)


@attrs.frozen
class UMT5Encoder:
    """Recalls prompts, and encodes those it does not know; holds no weights in between."""

    cache: Path
    """Folder of encoded prompts, one file each, or one file of them all."""
    files: EncoderFiles | None
    """None where the weights or the tokenizer are not there: then prompts are only recalled."""
    text_len: int
    text_dim: int
    device: str = "cpu"

    def encode(self, prompts: Sequence[str]) -> TextRows:
        """Return float32 ``[b, text_len, text_dim]``, rows of padding zero."""
        known = read_index(self.cache) if self.cache.exists() else ()
        if self.files is None:
            made = self._recalled(prompts, known)
        else:
            made = embed_prompts(prompts, self.files, known, device=self.device)
            self._keep(made, known)
        return padded(made, self.text_len, self.text_dim).to(self.device)

    def _recalled(self, prompts: Sequence[str], known: Sequence[Entry]) -> list[EmbeddedPrompt]:
        remedy = "name weights and tokenizer of the text encoder, to encode it here"
        found = [find_prompt(known, p, cache=self.cache, remedy=remedy) for p in prompts]
        return read_prompts(found)

    def _keep(self, made: Sequence[EmbeddedPrompt], known: Sequence[Entry]) -> None:
        """Remember what is new; a cache that cannot be written is said, and nothing else."""
        records = [entry.record for entry in known]
        for prompt in made:
            if prompt.record in records:
                continue
            one_file = self.cache.suffix == SUFFIX
            file = self.cache if one_file else self.cache / f"{prompt.record.key}{SUFFIX}"
            try:
                file.parent.mkdir(parents=True, exist_ok=True)
                add_prompts(file, [prompt])
            except OSError as e:
                _log.warning(f"The prompt was encoded, but cannot be kept in {self.cache}: {e}")
