"""umT5's encoder in transformers' class, filled from Wan's file without a second copy."""

from collections.abc import Mapping
from typing import Any

import torch
from af_core.errors import WeightsError
from af_core.weights.families import require_family, shapes_of
from af_core.weights.report import fill, require_fit
from torch import Tensor

from af_runtime.text.tokens import Tokens
from af_runtime.text.umt5_names import wan_names
from af_runtime.text.umt5_shape import umt5_shape

FIXED = {
    "relative_attention_max_distance": 128,
    "layer_norm_epsilon": 1e-6,
    "feed_forward_proj": "gated-gelu",
    "attn_implementation": "eager",
}
"""What is the same for every size. Eager attention alone equals the published one to the bit."""


def build_umt5(tensors: Mapping[str, Tensor], source: str, precision: str, device: str) -> Any:
    """Return a ``UMT5EncoderModel`` whose weights are the given tensors, under Wan's names."""
    takes = "umT5 under Wan's names (models_t5_umt5-xxl-enc-bf16.pth)"
    require_family(shapes_of(tensors), ("umt5",), "the text encoder", takes, source)
    encoder = _empty(umt5_shape(tensors, source))
    wan = wan_names(encoder.config.num_layers)
    wanted = {wan[name]: weight for name, weight in encoder.state_dict().items()}
    require_fit(wanted, tensors, source, "the umT5 encoder")
    fill(encoder, {name: tensors[wan[name]] for name in encoder.state_dict()}, source, assign=True)
    encoder.set_input_embeddings(encoder.shared)  # one embedding again, not two of one storage
    return encoder.to(device=device, dtype=getattr(torch, precision)).eval().requires_grad_(False)


def _empty(shape: Mapping[str, Any]) -> Any:
    from transformers import UMT5Config, UMT5EncoderModel

    with torch.device("meta"):
        return UMT5EncoderModel(UMT5Config(**shape, **FIXED))


@torch.inference_mode()
def encode_tokens(encoder: Any, tokens: Tokens) -> Tensor:
    """Return the rows of the tokens, padding left out: ``[token, d]`` on the CPU.

    The padding is encoded along and masked, as in the published code: the same shapes round alike.
    """
    if int(tokens.ids.max()) >= encoder.config.vocab_size:
        raise WeightsError(
            f"The tokenizer has a token {int(tokens.ids.max())}, the text encoder knows "
            f"{encoder.config.vocab_size}: they do not belong together."
        )
    device = encoder.shared.weight.device
    out = encoder(input_ids=tokens.ids.to(device), attention_mask=tokens.mask.to(device))
    rows = out.last_hidden_state[0, : tokens.num_rows].cpu().clone()
    if not bool(torch.isfinite(rows).all()):
        raise WeightsError("The text encoder made NaN or infinity: its weights are damaged.")
    return rows
