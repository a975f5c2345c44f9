"""Finds a prompt in a cache, or says what is in there and how to add what is missing."""

import shlex
from collections.abc import Sequence
from pathlib import Path

from af_core.errors import PromptError
from af_core.problems import Problem, did_you_mean
from af_core.prompts.index import Entry, read_index
from af_core.prompts.text import shown, tidy

MOST_LISTED = 8
MOST_TYPED = 200
"""Letters of a prompt that a suggested command repeats; a longer one is called PROMPT."""


def find_prompts(cache: Path, prompts: Sequence[str], model: str | None = None) -> list[Entry]:
    """Return the entries of prompts in a cache that others fill; see ``find_prompt``."""
    if not cache.exists():
        text, fix = f"There is no prompt cache {cache}.", encode_command(cache, *prompts[:1])
        raise PromptError([Problem("no_prompt_cache", "prompt", text, suggestion=fix)])
    entries = read_index(cache)
    return [
        find_prompt(entries, text, cache=cache, model=model, remedy=encode_command(cache, text))
        for text in prompts
    ]


def find_prompt(
    entries: Sequence[Entry], prompt: str, *, cache: Path, model: str | None = None, remedy: str
) -> Entry:
    """Return the entry of a prompt; raise ``PromptError`` if there is none or more than one.

    ``model`` is the hash of the text encoder, or its beginning; None takes the only one there
    is. ``remedy`` says in messages how to make an entry.
    """
    text = tidy(prompt)
    same = matching(entries, text)
    ours = matching(entries, text, model)
    if not ours:
        problem = _other_model(same, text, cache, model, remedy) if same else None
        raise PromptError([problem or _missing(entries, text, cache, remedy)])
    if len({entry.record.model for entry in ours}) > 1:
        raise PromptError([_ambiguous(ours, text, cache)])
    return ours[0]


def matching(entries: Sequence[Entry], text: str, model: str | None = None) -> list[Entry]:
    """Return the entries that mean a tidied text, those that list it among spellings first.

    ``model`` is a hash or its beginning.
    """
    found = [entry for entry in entries if entry.record.says(text)]
    ours = [entry for entry in found if entry.record.model.startswith(model or "")]
    return sorted(ours, key=lambda entry: text not in entry.record.spellings)


def require_size(num_rows: int, dim: int, text_len: int, text_dim: int) -> None:
    """Raise ``PromptError`` if an embedding does not fit the text input of a network."""
    if dim == text_dim and num_rows <= text_len:
        return
    text = "The embedding of this prompt does not fit: it is of another text encoder."
    want = f"at most {text_len} rows of {text_dim} (text_len, text_dim)"
    problem = Problem("prompt_size", "prompt", text, want, f"{num_rows} rows of {dim}")
    raise PromptError([problem])


def encode_command(file: Path, prompt: str = "PROMPT") -> str:
    """Return the command that adds a prompt to a file."""
    text = " ".join(prompt.split()) if len(prompt) <= MOST_TYPED else "PROMPT"
    return (
        "af-runtime prompts encode --weights models_t5_umt5-xxl-enc-bf16.pth "
        f"--tokenizer google/umt5-xxl -o {shlex.quote(str(file))} {shlex.quote(text)}"
    )


def describe(entry: Entry) -> str:
    """Return an entry as one line: its prompt, its length and its model."""
    tokens = f"{entry.record.num_tokens} tokens"
    return f"{shown(entry.record.prompt)} ({tokens}, model {entry.record.model[:12]})"


def _missing(entries: Sequence[Entry], text: str, cache: Path, remedy: str) -> Problem:
    known = {entry.record.prompt[:MOST_TYPED]: entry for entry in entries}
    close = did_you_mean(text[:MOST_TYPED], known)
    lines = [describe(entry) for entry in entries[:MOST_LISTED]]
    if len(entries) > MOST_LISTED:
        more = f"af-runtime prompts list {shlex.quote(str(cache))}"
        lines.append(f"and {len(entries) - MOST_LISTED} more: {more}")
    said = f"The prompt is not in {cache}." if text else f"The prompt is empty; {cache} has none."
    if close is not None:
        said += f" Did you mean {shown(known[close].record.prompt)}?"
    there = "\n".join(["one of:", *lines]) if lines else "nothing: the cache is empty"
    return Problem("no_prompt", "prompt", said, there, shown(text), remedy)


def _other_model(
    same: Sequence[Entry], text: str, cache: Path, model: str | None, remedy: str
) -> Problem:
    there = ", ".join(sorted({entry.record.model[:12] for entry in same}))
    said = f"The prompt is in {cache}, but encoded by another text encoder."
    return Problem("other_model", "prompt", said, f"model {model}", f"model {there}", remedy)


def _ambiguous(ours: Sequence[Entry], text: str, cache: Path) -> Problem:
    said = f"Several text encoders have encoded this prompt in {cache}."
    models = sorted({entry.record.model[:12] for entry in ours})
    return Problem(
        "ambiguous_prompt",
        "prompt",
        said,
        f"the model to take, one of: {', '.join(models)}",
        shown(text),
        f"text_encoder: {{use: cached_prompt, file: {cache}, model: {models[0]}}}",
    )
