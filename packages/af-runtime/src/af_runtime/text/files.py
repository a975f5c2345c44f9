"""The files of a text encoder and how it is run; no torch, so that a pipeline is checked."""

from pathlib import Path

import attrs
from af_core.problems import Problem

SUFFIXES = (".pth", ".pt", ".safetensors")


@attrs.frozen
class EncoderFiles:
    """A text encoder on disk, and all else that its embeddings depend on."""

    weights: Path
    """The encoder under Wan's names, such as ``models_t5_umt5-xxl-enc-bf16.pth``."""
    tokenizer: Path
    """Folder of the tokenizer, such as ``google/umt5-xxl``."""
    text_len: int = 512
    """Tokens that are read; the rest of a prompt is cut."""
    precision: str = "bfloat16"
    """Type of the weights and of the embedding, by torch's name."""


def file_problems(
    weights: Path | None, tokenizer: Path | None, prefix: str = "text_encoder."
) -> list[Problem]:
    """Return what keeps a text encoder from being loaded, as far as names tell."""
    faults = {
        "weights": (weights, _weights_fault(weights), "models_t5_umt5-xxl-enc-bf16.pth"),
        "tokenizer": (tokenizer, _tokenizer_fault(tokenizer), "the folder google/umt5-xxl"),
    }
    return [
        Problem(
            "no_text_encoder",
            f"{prefix}{option}",
            f"Encoding a prompt that is in no cache takes a text encoder, but {fault}.",
            f"{example} of Wan 2.1",
            None if path is None else str(path),
        )
        for option, (path, fault, example) in faults.items()
        if fault is not None
    ]


def _weights_fault(path: Path | None) -> str | None:
    if path is None:
        return "no weights are named"
    if path.suffix not in SUFFIXES:
        return f"the weights end in none of {', '.join(SUFFIXES)}"
    return None if path.is_file() else "the weights are not there"


def _tokenizer_fault(path: Path | None) -> str | None:
    if path is None:
        return "no tokenizer is named"
    return None if path.is_dir() else "the tokenizer is no folder"
