"""The tiny video autoencoder as two stages: portraits in, video out."""

import torch
from torch import Tensor, nn

from af_core.decoders.pixels import from_pixels, to_pixels
from af_core.models.tiny_vae import Memory, TinyVAE


class TinyVAEDecoder(nn.Module):
    """Latents to frames: a ``Decoder`` whose state is the newest frame's view of each layer."""

    shares_steps = True

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
        return self.vae.encode(from_pixels(image)[:, None])[0]

    @torch.no_grad()
    def encode_video(self, frames: Tensor, memory: Memory | None = None) -> tuple[Tensor, Memory]:
        """Return the latents of a video, see ``EncodesVideo``."""
        video = from_pixels(frames.flatten(0, 1)).unflatten(0, frames.shape[:2])
        return self.vae.encode(video, memory)
