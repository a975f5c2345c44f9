"""Encodes prompts: those that are known are recalled, for the others the encoder is loaded once."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import msgspec
import torch
from af_core.assembly import require_device
from af_core.capacity import free_bytes
from af_core.errors import PipelineError
from af_core.graph.spec import DEVICE
from af_core.ports import BYTES
from af_core.prompts.cache import EmbeddedPrompt, add_prompts, read_prompts, warn_of_cut
from af_core.prompts.index import Entry, Record, read_index
from af_core.prompts.lookup import matching
from af_core.prompts.text import tidy
from af_core.weights.checkpoints import read_checkpoint
from torch import Tensor

from af_runtime.errors import RequestError
from af_runtime.outputs import checked_output
from af_runtime.text.cleaning import clean
from af_runtime.text.extra import require_extra
from af_runtime.text.files import EncoderFiles, file_problems
from af_runtime.text.model_hash import model_hash
from af_runtime.text.tokens import load_tokenizer, tokenize
from af_runtime.text.umt5 import build_umt5, encode_tokens

_log = logging.getLogger(__name__)


def encode_prompts(
    prompts: Sequence[str], output: Path, files: EncoderFiles, *, device: str = "cpu"
) -> list[EmbeddedPrompt]:
    """Add prompts to a cache, ``output``, and return them in their order.

    Those that the file has of this text encoder are kept; what else is in the file stays. Logs a
    warning for a prompt whose end was cut. Raises ``PromptError`` for what is no text,
    ``PipelineError`` or ``WeightsError`` for files that are not there or do not fit,
    ``UnavailableError`` without the packages.
    """
    if problems := file_problems(files.weights, files.tokenizer, prefix=""):
        raise PipelineError(problems)
    if not DEVICE.fullmatch(device):
        raise RequestError(f"The device {device!r} is none of cpu, mps, cuda, cuda:N.")
    require_device(device)
    file = checked_output(output, (".safetensors",), (files.weights,))
    made = embed_prompts(prompts, files, read_index(file) if file.exists() else (), device=device)
    for prompt in made:
        warn_of_cut(prompt)
    try:
        add_prompts(file, made)
    except OSError as e:
        raise RequestError(f"Nothing could be written to {file}: {e}.") from e
    return made


def embed_prompts(
    prompts: Sequence[str],
    files: EncoderFiles,
    known: Sequence[Entry] = (),
    *,
    device: str = "cpu",
) -> list[EmbeddedPrompt]:
    """Return the embedding of each prompt; what is ``known`` is not encoded again.

    The encoder is loaded at most once, and its memory is free again afterwards.
    """
    model = model_hash(files)
    ours = [entry for entry in known if entry.record.model == model]
    texts = {prompt: tidy(prompt) for prompt in prompts}
    new = [prompt for prompt, text in texts.items() if not matching(ours, text)]
    made = read_prompts(entry for text in texts.values() for entry in matching(ours, text)[:1])
    if new:
        require_extra()
        made += _cleaned_and_embedded(new, model, files, ours, device)
    latest = {prompt.record.key: prompt for prompt in made}  # with the spellings that were added
    return [_of(texts[prompt], list(latest.values())) for prompt in prompts]


def _cleaned_and_embedded(
    prompts: Sequence[str], model: str, files: EncoderFiles, ours: Sequence[Entry], device: str
) -> list[EmbeddedPrompt]:
    """Embed prompts that no entry has as they are spelt; cleaned, some may be there after all."""
    spellings: dict[str, list[str]] = {}
    for prompt in prompts:
        spellings.setdefault(clean(prompt), []).append(tidy(prompt))
    made = read_prompts(entry for entry in ours if entry.record.prompt in spellings)
    new = spellings.keys() - {prompt.record.prompt for prompt in made}
    if new:
        made += _encoded(sorted(new), model, files, device)
    return [_with_spellings(prompt, spellings[prompt.record.prompt]) for prompt in made]


def _encoded(
    texts: Iterable[str], model: str, files: EncoderFiles, device: str
) -> list[EmbeddedPrompt]:
    tokenizer = load_tokenizer(files.tokenizer)
    tokens = {text: tokenize(tokenizer, text, files.text_len) for text in texts}
    tensors = read_checkpoint(files.weights)
    place = _with_room(device, tensors, files.precision)
    encoder = build_umt5(tensors, str(files.weights), files.precision, place)
    made = [
        EmbeddedPrompt(Record(text, model, t.num_tokens), encode_tokens(encoder, t))
        for text, t in tokens.items()
    ]
    del encoder, tensors
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return made


def _with_room(device: str, tensors: Mapping[str, Tensor], precision: str) -> str:
    """Return the device, or the CPU if the encoder would not fit beside what is there already."""
    free = None if device == "cpu" else free_bytes(device)
    size = sum(tensor.numel() for tensor in tensors.values()) * BYTES[precision]
    if free is None or size <= free:
        return device
    _log.warning(
        f"The text encoder takes {size / 1e9:.1f} GB and {device} has {free / 1e9:.1f} GB free: "
        "the prompt is encoded on the CPU, once."
    )
    return "cpu"


def _with_spellings(prompt: EmbeddedPrompt, texts: Sequence[str]) -> EmbeddedPrompt:
    record = prompt.record
    others = [text for text in texts if not record.says(text)]
    record = msgspec.structs.replace(record, spellings=(*record.spellings, *others))
    return EmbeddedPrompt(record, prompt.rows)


def _of(text: str, made: Sequence[EmbeddedPrompt]) -> EmbeddedPrompt:
    """Return the embedding of a tidied text; one that lists it among its spellings goes first."""
    ours = [prompt for prompt in made if prompt.record.says(text)]
    return min(ours, key=lambda prompt: text not in prompt.record.spellings)
