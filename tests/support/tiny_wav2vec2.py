"""Small wav2vec 2.0 checkpoints with random weights, as folders in the format of Hugging Face."""

import json

import torch
from safetensors.torch import save_file

TINY = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "conv_dim": [8] * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}
"""The architecture of wav2vec2-base, with its strides and kernels, a few kilobytes large."""
TINY_DIM = 4 * 16


def tiny_model(seed=0, **changes):
    """A ``transformers.Wav2Vec2Model`` whose every weight is random, norms and biases too."""
    from transformers import Wav2Vec2Config, Wav2Vec2Model

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Wav2Vec2Model(Wav2Vec2Config(**(TINY | changes))).eval()
        with torch.no_grad():
            for weight in model.parameters():
                if weight.ndim == 1:
                    weight.add_(0.2 * torch.randn_like(weight))
    return model.requires_grad_(False)


def local_model():
    """A tiny model whose row i depends on samples 640 i to 640 i + 399 and on how loud all is."""
    model = tiny_model()
    model.encoder.pos_conv_embed.conv.parametrizations.weight.original0.zero_()
    for layer in model.encoder.layers:
        layer.attention.out_proj.weight.zero_()
    return model


def save(model, folder, *, kind="safetensors", prefix="", old_names=False, extra=None):
    """Write config.json and the tensors; names as they stand in files with and without a head."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(model.config.to_dict()))
    tensors = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    if old_names:
        old = {"original0": "weight_g", "original1": "weight_v"}
        tensors = {
            f"{n.partition('.parametrizations')[0]}.{old[n.rpartition('.')[2]]}"
            if "parametrizations" in n
            else n: t
            for n, t in tensors.items()
        }
    tensors = {prefix + name: tensor for name, tensor in tensors.items()} | (extra or {})
    if kind == "safetensors":
        save_file(tensors, folder / "model.safetensors")
    else:
        torch.save(tensors, folder / "pytorch_model.bin")
    return folder


def tiny_checkpoint(folder, seed=0, **changes):
    """Write a tiny checkpoint and return its folder."""
    return save(tiny_model(seed, **changes), folder)
