"""The shape of umT5's encoder, told from its weights."""

from collections.abc import Mapping
from typing import Any

from af_core.errors import WeightsError
from torch import Tensor


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
