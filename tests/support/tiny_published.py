"""The published model in miniature: every file of its repositories, small, with random weights."""

import io

import tiny_checkpoint
import tiny_umt5
import tiny_wav2vec2
import torch
from af_core.models.wan_vae import WanDecoder, WanEncoder
from af_core.models.wan_vae_config import WanVAEConfig

AVATAR, WAN, SPEECH = "lycui/AvatarForcing", "Wan-AI/Wan2.1-T2V-1.3B", "facebook/wav2vec2-base-960h"
SIZES = {
    **tiny_checkpoint.TINY,
    "text_dim": tiny_umt5.DIM,
    "audio_dim": tiny_wav2vec2.TINY_DIM,
}
VAE_DIM = 4
PIPELINE = f"""
extends: %s
name: tiny
geometry: {{height: 32, width: 48}}
precision: float32
prompt: person speaks
placement: {{main: {{device: cpu}}}}
text_encoder: {{text_len: {SIZES["text_len"]}, text_dim: {SIZES["text_dim"]}, precision: float32}}
denoiser: {{{", ".join(f"{name}: {size}" for name, size in SIZES.items())}, lora_alpha: 2.0}}
image_encoder: {{dim: {VAE_DIM}}}
"""
"""A preset of the published model with the sizes of these files."""


def repositories(folder):
    """Write the files, and return them as a hub holds them: repository -> name -> bytes."""
    torch.manual_seed(0)
    tiny_checkpoint.write(folder / "model.pt", SIZES)
    config = WanVAEConfig(dim=VAE_DIM)
    halves = WanEncoder(config), WanDecoder(config)
    vae = {name: tensor for half in halves for name, tensor in half.state_dict().items()}
    t5 = tiny_umt5.as_wan(tiny_umt5.make_model())
    tokenizer = tiny_umt5.save_tokenizer(folder / "tokenizer")
    audio = tiny_wav2vec2.tiny_checkpoint(folder / "audio")
    return {
        AVATAR: {
            "README.md": b"Apache-2.0",
            "LICENSE.txt": b"academic use only",
            "checkpoints/model.pt": (folder / "model.pt").read_bytes(),
        },
        WAN: {
            "README.md": b"wan",
            "Wan2.1_VAE.pth": _saved(vae),
            "models_t5_umt5-xxl-enc-bf16.pth": _saved(t5),
            **{f"google/umt5-xxl/{path.name}": path.read_bytes() for path in tokenizer.iterdir()},
        },
        SPEECH: {
            "README.md": b"speech",
            "preprocessor_config.json": b"{}",
            **{path.name: path.read_bytes() for path in audio.iterdir()},
        },
    }


def pipeline(folder, preset="avatarforcing-1.3b", more=""):
    """Write the pipeline file of a preset in miniature and return its path."""
    path = folder / f"{preset}.yaml"
    decoder = "" if "fast" in preset else f"decoder: {{dim: {VAE_DIM}, dtype: float32}}\n"
    path.write_text(PIPELINE % preset + decoder + more)
    return str(path)


def _saved(tensors):
    buffer = io.BytesIO()
    torch.save(tensors, buffer)
    return buffer.getvalue()
