"""Names of umT5's tensors: Wan's in its files, transformers' in its class (spec section 5.1)."""

OUTER = {
    "shared.weight": "token_embedding.weight",
    "encoder.embed_tokens.weight": "token_embedding.weight",
    "encoder.final_layer_norm.weight": "norm.weight",
}
LAYER = {
    "layer.0.layer_norm.weight": "norm1.weight",
    "layer.0.SelfAttention.q.weight": "attn.q.weight",
    "layer.0.SelfAttention.k.weight": "attn.k.weight",
    "layer.0.SelfAttention.v.weight": "attn.v.weight",
    "layer.0.SelfAttention.o.weight": "attn.o.weight",
    "layer.0.SelfAttention.relative_attention_bias.weight": "pos_embedding.embedding.weight",
    "layer.1.layer_norm.weight": "norm2.weight",
    "layer.1.DenseReluDense.wi_0.weight": "ffn.gate.0.weight",
    "layer.1.DenseReluDense.wi_1.weight": "ffn.fc1.weight",
    "layer.1.DenseReluDense.wo.weight": "ffn.fc2.weight",
}


def wan_names(num_layers: int) -> dict[str, str]:
    """Return Wan's name of each tensor of a ``UMT5EncoderModel``; the embedding is there twice."""
    layers = {
        f"encoder.block.{i}.{theirs}": f"blocks.{i}.{wan}"
        for i in range(num_layers)
        for theirs, wan in LAYER.items()
    }
    return OUTER | layers
