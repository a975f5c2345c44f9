"""Weights of umT5's encoder: read, strictly, and the shape of the network told from them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from af_core.errors import WeightsError
from af_core.weights.files import read_tensors
from torch import Tensor


def read_weights(path: Path) -> Mapping[str, Tensor]:
    """Return the tensors of a checkpoint, mapped from disk rather than copied where that works."""
    if path.suffix == ".safetensors":
        return read_tensors(path)
    try:
        tensors = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as e:  # whatever is wrong with the file: the loader has many names for it
        reason = str(e).partition("\n")[0]
        raise WeightsError(f"{path} is damaged or no checkpoint of tensors ({reason}).") from e
    if not isinstance(tensors, Mapping) or not all(isinstance(t, Tensor) for t in tensors.values()):
        raise WeightsError(f"{path} holds {type(tensors).__name__}, not tensors by name.")
    return tensors


def umt5_shape(tensors: Mapping[str, Tensor], source: str) -> dict[str, Any]:
    """Return the options of ``UMT5Config`` that tensors under Wan's names tell."""
    try:
        vocab_size, d_model = tensors["token_embedding.weight"].shape
        num_buckets, num_heads = tensors["blocks.0.pos_embedding.embedding.weight"].shape
        return {
            "vocab_size": vocab_size,
            "d_model": d_model,
            "d_kv": tensors["blocks.0.attn.q.weight"].shape[0] // num_heads,
            "d_ff": tensors["blocks.0.ffn.fc1.weight"].shape[0],
            "num_layers": 1 + max(int(n.split(".")[1]) for n in tensors if n.startswith("blocks.")),
            "num_heads": num_heads,
            "relative_attention_num_buckets": num_buckets,
        }
    except (KeyError, ValueError) as fault:
        raise WeightsError(
            f"{source} is no umT5 encoder under Wan's names: {fault} is missing or of another "
            "kind. Wan 2.1 calls the file models_t5_umt5-xxl-enc-bf16.pth."
        ) from fault
