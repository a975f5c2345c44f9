"""Writes AvatarForcing checkpoints as published, of any size, from the specification alone.

    path, options = tiny_checkpoint.write(folder / "denoiser.pt")
    af_core.load(preset, {f"denoiser.{name}": value for name, value in options.items()})

The names and shapes are written down from section 1.1 and not taken from the network, so that a
test that loads them compares the network with the specification.
"""

import torch

RANK, ALPHA = 4, 2.0
LINEARS = [f"{a}.{p}" for a in ("self_attn", "cross_attn") for p in "qkvo"] + ["ffn.0", "ffn.2"]
"""Modules of a layer that carry an adapter."""

TINY = {
    "dim": 48, "ffn_dim": 64, "num_layers": 6, "num_heads": 2, "freq_dim": 16,
    "in_channels": 33, "out_channels": 16, "text_dim": 24, "text_len": 16,
    "audio_dim": 28, "audio_hidden": 8,
}  # fmt: skip
"""Options of a denoiser that runs in milliseconds; latents have the published 16 channels."""

PUBLISHED = {
    "dim": 1536, "ffn_dim": 8960, "num_layers": 30, "num_heads": 12, "freq_dim": 256,
    "in_channels": 33, "out_channels": 16, "text_dim": 4096, "text_len": 512,
    "audio_dim": 10_752, "audio_hidden": 32,
}  # fmt: skip
"""Sizes of the published network."""


def shapes(sizes, rank=RANK):
    """Names and shapes of the published state dict; rank None: as they are after merging."""
    dim, text, audio = sizes["dim"], sizes["text_dim"], sizes["audio_hidden"]
    made = {
        "patch_embedding.weight": (dim, sizes["in_channels"], 1, 2, 2),
        "patch_embedding.bias": (dim,),
        **linear("text_embedding.0", text, dim),
        **linear("text_embedding.2", dim, dim),
        **linear("time_embedding.0", sizes["freq_dim"], dim),
        **linear("time_embedding.2", dim, dim),
        **linear("time_projection.1", dim, 6 * dim),
        "head.modulation": (1, 2, dim),
        **linear("head.head", dim, 4 * sizes["out_channels"]),
        **linear("audio_proj.proj", 4 * sizes["audio_dim"], audio),
        "audio_proj.norm_out.weight": (audio,),
        "audio_proj.norm_out.bias": (audio,),
    }
    for place in range(max(sizes["num_layers"] // 2 - 1, 0)):
        made |= linear(f"audio_cond_projs.{place}", audio, dim)
    for layer in range(sizes["num_layers"]):
        made |= layer_shapes(f"blocks.{layer}.", dim, sizes["ffn_dim"], rank)
    return made


def linear(name, inputs, outputs):
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def layer_shapes(start, dim, ffn, rank):
    norms = [f"{a}.{n}.weight" for a in ("self_attn", "cross_attn") for n in ("norm_q", "norm_k")]
    made = {start + "modulation": (1, 6, dim), start + "norm3.weight": (dim,)}
    made |= {start + "norm3.bias": (dim,), **{start + norm: (dim,) for norm in norms}}
    for name in LINEARS:
        inputs, outputs = {"ffn.0": (dim, ffn), "ffn.2": (ffn, dim)}.get(name, (dim, dim))
        if rank is None:
            made |= linear(start + name, inputs, outputs)
            continue
        made |= linear(f"{start}{name}.base_layer", inputs, outputs)
        made[f"{start}{name}.lora_A.default.weight"] = (rank, inputs)
        made[f"{start}{name}.lora_B.default.weight"] = (outputs, rank)
    return made


def tensors(sizes=TINY, rank=RANK, seed=0, dtype=torch.float32):
    """Lively random values, so that every weight shows in the output."""
    rng = torch.Generator().manual_seed(seed)
    made = {}
    for name, shape in shapes(sizes, rank).items():
        small = len(shape) == 1 or "modulation" in name
        spread = 0.3 if small else 0.9 / torch.Size(shape[1:]).numel() ** 0.5
        centre = 1.0 if "norm" in name and name.endswith("weight") else 0.0
        made[name] = (centre + spread * torch.randn(shape, generator=rng)).to(dtype)
    return made


def wrapped(state, part="_fsdp_wrapped_module."):
    """Put what FSDP puts into names: around the network, and around each of its layers."""
    made = {}
    for name, tensor in state.items():
        head, dot, rest = name.partition(".")
        if head == "blocks":
            layer, _, inside = rest.partition(".")
            rest = f"{layer}.{part}{inside}"
        made[f"model.{part}{head}{dot}{rest}"] = tensor
    return made


def write(path, sizes=TINY, *, rank=RANK, seed=0, dtype=torch.float32, ema=True):
    """Write a checkpoint as published; return its path and the options of the denoiser.

    ``generator`` has the prefix ``model.``; ``generator_ema`` has FSDP's besides and other values
    (those of ``seed + 1``).
    """
    plain = tensors(sizes, rank, seed, dtype)
    entries = {"generator": {f"model.{name}": tensor for name, tensor in plain.items()}}
    if ema:
        entries["generator_ema"] = wrapped(tensors(sizes, rank, seed + 1, dtype))
    torch.save(entries, path)
    return path, {**sizes, "weights": str(path), "lora_alpha": rank * ALPHA / RANK}
