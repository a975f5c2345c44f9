"""A prompt as tokens: ended, cut to what the encoder reads, padded to one length."""

from pathlib import Path
from typing import Any

import attrs
from af_core.errors import WeightsError
from torch import Tensor


@attrs.frozen(eq=False)
class Tokens:
    """A prompt as the encoder takes it."""

    ids: Tensor
    """int64 ``[1, text_len]``."""
    mask: Tensor
    """int64 ``[1, text_len]``, 1 for tokens and 0 for padding."""
    num_rows: int
    """Tokens that are read, the end included."""
    num_tokens: int
    """Tokens of the whole prompt; more than ``num_rows`` if its end was cut."""


def load_tokenizer(folder: Path) -> Any:
    """Return the tokenizer in a folder; nothing is fetched and no code of the folder is run."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=False
        )
    except Exception as e:  # the library raises whatever its parsers do, also bare Exceptions
        raise WeightsError(
            f"The folder {folder} holds no tokenizer that can be read ({type(e).__name__}: {e}). "
            "It needs tokenizer.json and tokenizer_config.json, as in google/umt5-xxl of Wan 2.1."
        ) from e
    tokenizer.padding_side = tokenizer.truncation_side = "right"
    return tokenizer


def tokenize(tokenizer: Any, prompt: str, text_len: int) -> Tokens:
    """Return the tokens of a cleaned prompt, with the end token, cut or padded to ``text_len``."""
    whole = tokenizer(prompt, add_special_tokens=True, verbose=False)["input_ids"]
    if not whole or whole[-1] != tokenizer.eos_token_id:
        raise WeightsError(
            f"This tokenizer ({type(tokenizer).__name__}) puts no end token behind a prompt, as "
            "umT5 expects. Use the folder google/umt5-xxl of Wan 2.1."
        )
    batch = tokenizer(
        prompt,
        add_special_tokens=True,
        padding="max_length",
        truncation=True,
        max_length=text_len,
        return_attention_mask=True,
        return_tensors="pt",
    )
    num_rows = min(len(whole), text_len)
    return Tokens(batch["input_ids"], batch["attention_mask"], num_rows, len(whole))
