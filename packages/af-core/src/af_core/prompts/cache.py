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
    """Write prompts into a file, which keeps what it has; a known key is written anew."""
    kept = read_prompts(read_index(file)) if file.exists() else []
    together = {prompt.record.key: prompt for prompt in (*kept, *prompts)}
    records = [prompt.record for prompt in together.values()]
    header = {"format": FORMAT, "records": msgspec.json.encode(records).decode()}
    write_tensors(file, {key: prompt.rows for key, prompt in together.items()}, header)


def recall(entries: Iterable[Entry], text_len: int, text_dim: int) -> Tensor:
    """Return embeddings as a network takes them, padded with zeros: float32 [b, text_len, d].

    Warns of prompts whose end was cut. Raises ``PromptError`` for embeddings of another size.
    """
    entries = list(entries)
    for entry in entries:
        require_size(entry, text_len, text_dim)
        warn_of_cut(entry)
    rows = [prompt.rows.float() for prompt in read_prompts(entries)]
    return torch.stack([F.pad(row, (0, 0, 0, text_len - len(row))) for row in rows])


def warn_of_cut(entry: Entry) -> None:
    """Log a warning if the text encoder did not read the whole prompt."""
    record = entry.record
    if record.num_tokens > entry.num_rows:
        _log.warning(
            f"The prompt {shown(record.prompt)} has {record.num_tokens} tokens, but the text "
            f"encoder reads {entry.num_rows}: the last {record.num_tokens - entry.num_rows} were "
            "cut and have no effect. Shorten the prompt."
        )
