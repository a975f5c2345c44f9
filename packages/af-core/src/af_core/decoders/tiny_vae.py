"""The tiny video autoencoder as two stages: portraits in, video out."""

import torch
from torch import Tensor, nn

from af_core.models.tiny_vae import Memory, TinyVAE


class TinyVAEDecoder(nn.Module):
    """Latents to frames: a ``Decoder`` whose state is the newest frame's view of each layer."""

    def __init__(self, vae: TinyVAE) -> None:
        super().__init__()
        self.vae = vae

    def open(self, num_streams: int) -> Memory | None:
        """Return the state before the first latent: nothing."""
        return None

    @torch.no_grad()
    def step(self, state: Memory | None, latents: Tensor) -> tuple[Tensor, Memory | None]:
        """Decode ``[b, f, c, h, w]`` to uint8 ``[b, n, H, W, 3]``: first latent 1 frame, then 4."""
        video, state = self.vae.decode(latents, state)
        return to_pixels(video), state


class TinyVAEImageEncoder(nn.Module):
    """Portraits to latents: an ``ImageEncoder``."""

    def __init__(self, vae: TinyVAE) -> None:
        super().__init__()
        self.vae = vae

    @torch.no_grad()
    def encode(self, image: Tensor) -> Tensor:
        """Return normalised latents ``[b, 1, c, h, w]`` of uint8 ``[b, H, W, 3]``."""
        picture = image.permute(0, 3, 1, 2).to(self.vae.mean.dtype) / 255
        return self.vae.encode(picture[:, None])[0]


def to_pixels(video: Tensor) -> Tensor:
    """Return uint8 ``[b, n, H, W, 3]`` of colours in 0..1 ``[b, n, 3, H, W]``; others are cut."""
    return (video.clamp(0, 1) * 255).round_().to(torch.uint8).permute(0, 1, 3, 4, 2).contiguous()
