"""What a cache of prompts holds, read from the headers of its files without torch.

A cache is a safetensors file, or a folder of them. Each tensor is the embedding of one prompt, its
padding left out, under the name ``prompt_key`` gives it; the header says whose it is.
"""

from pathlib import Path

import attrs
import msgspec
from safetensors import SafetensorError, safe_open

from af_core.errors import PromptError
from af_core.problems import Problem
from af_core.prompts.text import prompt_key

FORMAT = "af-prompts/1"
SUFFIX = ".safetensors"


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the header of a file says about one embedding."""

    prompt: str
    """The cleaned prompt, as it was encoded."""
    model: str
    """Hash of all that the embedding depends on besides the prompt."""
    num_tokens: int
    """Tokens of the prompt, those included that were cut because the encoder reads no more."""
    spellings: tuple[str, ...] = ()
    """Other texts, tidied, that cleaning turns into this prompt."""

    @property
    def key(self) -> str:
        """Name of the embedding."""
        return prompt_key(self.prompt, self.model)

    def says(self, text: str) -> bool:
        """Return whether a tidied text means this prompt."""
        return text == self.prompt or text in self.spellings


@attrs.frozen
class Entry:
    """One embedding, and where it lies."""

    record: Record
    file: Path
    num_rows: int
    """Tokens that were encoded: the valid rows."""
    dim: int
    dtype: str
    """Type of the stored numbers, by safetensors' name: BF16 or F32."""


def read_index(cache: Path) -> tuple[Entry, ...]:
    """Return the entries of a cache, from headers alone; raise ``PromptError`` for what is none."""
    if cache.is_dir():
        files = sorted(cache.glob(f"*{SUFFIX}"))
        return tuple(entry for file in files for entry in _read_file(file))
    if not cache.exists():
        raise _fault("no_prompt_cache", f"There is no prompt cache {cache}.")
    return _read_file(cache)


def _read_file(file: Path) -> tuple[Entry, ...]:
    try:
        with safe_open(str(file), framework="np") as tensors:
            told = tensors.metadata() or {}
            views = {name: tensors.get_slice(name) for name in tensors.keys()}  # noqa: SIM118
            sizes = {name: (view.get_shape(), view.get_dtype()) for name, view in views.items()}
    except (SafetensorError, OSError) as e:
        text = f"The prompt cache {file} cannot be read: it is damaged, or something else ({e})."
        raise _fault("bad_prompt_cache", text) from e
    if told.get("format") != FORMAT:
        raise _fault("bad_prompt_cache", f"The file {file} is no prompt cache.")
    records = _records(file, told.get("records", ""))
    if {record.key for record in records} != sizes.keys():
        text = f"In the prompt cache {file}, prompts and embeddings do not belong together."
        raise _fault("bad_prompt_cache", text)
    return tuple(_entry(record, file, *sizes[record.key]) for record in records)


def _records(file: Path, text: str) -> tuple[Record, ...]:
    try:
        return msgspec.json.decode(text, type=tuple[Record, ...])
    except msgspec.DecodeError as e:
        text = f"The header of the prompt cache {file} is damaged ({e})."
        raise _fault("bad_prompt_cache", text) from e


def _entry(record: Record, file: Path, shape: list[int], dtype: str) -> Entry:
    if len(shape) != 2 or dtype not in ("BF16", "F32"):
        text = f"In the prompt cache {file}, an embedding is {dtype} {shape}, not rows of numbers."
        raise _fault("bad_prompt_cache", text)
    return Entry(record, file, num_rows=shape[0], dim=shape[1], dtype=dtype)


def _fault(code: str, text: str) -> PromptError:
    hint = "a file that af-runtime prompts encode wrote, or a folder of such files"
    return PromptError([Problem(code, "", text, hint)])
