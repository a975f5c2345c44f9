"""Reads and writes the embeddings of prompts; a file appears whole or not at all."""

import logging
from collections.abc import Iterable
from pathlib import Path

import attrs
import msgspec
import torch
from torch import Tensor
from torch.nn import functional as F

from af_core.prompts.index import FORMAT, Entry, Record, read_index
from af_core.prompts.lookup import require_size
from af_core.prompts.text import shown
from af_core.weights.files import read_tensors, write_tensors

_log = logging.getLogger(__name__)


@attrs.frozen(eq=False)
class EmbeddedPrompt:
    """A prompt and its embedding."""

    record: Record
    rows: Tensor
    """Of the valid tokens: bfloat16 or float32 ``[token, d]``."""


def read_prompts(entries: Iterable[Entry]) -> list[EmbeddedPrompt]:
    """Return the embeddings of entries, in the type they are stored in; each file is read once."""
    files: dict[Path, dict[str, Tensor]] = {}
    made = []
    for entry in entries:
        if entry.file not in files:
            files[entry.file] = read_tensors(entry.file)
        made.append(EmbeddedPrompt(entry.record, files[entry.file][entry.record.key]))
    return made


def add_prompts(file: Path, prompts: Iterable[EmbeddedPrompt]) -> None:
    """Write prompts into a file, which keeps what it has; a known key is written anew.

    Of two that add to one file at the same time, the later wins; to a folder, each adds its own.
    Raises ``OSError`` if nothing can be written.
    """
    kept = read_prompts(read_index(file)) if file.exists() else []
    together = {prompt.record.key: prompt for prompt in (*kept, *prompts)}
    records = [prompt.record for prompt in together.values()]
    header = {"format": FORMAT, "records": msgspec.json.encode(records).decode()}
    write_tensors(file, {key: prompt.rows for key, prompt in together.items()}, header)


def padded(prompts: Iterable[EmbeddedPrompt], text_len: int, text_dim: int) -> Tensor:
    """Return embeddings as a network takes them, padded with zeros: float32 [b, text_len, d].

    Warns of prompts whose end was cut. Raises ``PromptError`` for embeddings of another size.
    """
    rows = []
    for prompt in prompts:
        num_rows, dim = prompt.rows.shape
        require_size(num_rows, dim, text_len, text_dim)
        warn_of_cut(prompt)
        rows.append(F.pad(prompt.rows.float(), (0, 0, 0, text_len - num_rows)))
    return torch.stack(rows)


def warn_of_cut(prompt: EmbeddedPrompt) -> None:
    """Log a warning if the text encoder did not read the whole prompt."""
    total, read = prompt.record.num_tokens, len(prompt.rows)
    if total > read:
        _log.warning(
            f"The prompt {shown(prompt.record.prompt)} has {total} tokens, but the text encoder "
            f"reads {read}: the last {total - read} were cut and have no effect. Shorten it."
        )
