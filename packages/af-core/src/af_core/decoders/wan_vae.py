"""The Wan 2.1 autoencoder as two stages: portraits in, video out."""

import torch
from torch import Tensor, nn

from af_core.decoders.pixels import Rounding, from_pixels, to_pixels
from af_core.models.wan_vae import WanDecoder, WanEncoder
from af_core.models.wan_vae_config import LATENTS_PER_CALL
from af_core.models.wan_vae_layers import Memory


class WanVAEDecoder(nn.Module):
    """Latents to frames: a ``Decoder`` whose state is two frames of each causal convolution."""

    def __init__(
        self,
        vae: WanDecoder,
        latents_per_call: int = LATENTS_PER_CALL,
        rounding: Rounding = "nearest",
    ) -> None:
        super().__init__()
        self.vae = vae
        self.latents_per_call = latents_per_call
        self.rounding: Rounding = rounding

    def open(self, num_streams: int) -> Memory | None:
        """Return the state before the first latent: nothing."""
        return None

    @torch.no_grad()
    def step(self, state: Memory | None, latents: Tensor) -> tuple[Tensor, Memory | None]:
        """Decode ``[b, f, c, h, w]`` to uint8 ``[b, n, H, W, 3]``: first latent 1 frame, then 4."""
        video, state = self.vae.decode(latents, state, self.latents_per_call)
        return to_pixels(video.float() * 0.5 + 0.5, self.rounding), state


class WanVAEImageEncoder(nn.Module):
    """Portraits to latents: an ``ImageEncoder``."""

    def __init__(self, vae: WanEncoder) -> None:
        super().__init__()
        self.vae = vae

    @torch.no_grad()
    def encode(self, image: Tensor) -> Tensor:
        """Return normalised float32 latents ``[b, 1, c, h, w]`` of uint8 ``[b, H, W, 3]``."""
        return self.vae.encode_image(from_pixels(image) * 2 - 1)

    @torch.no_grad()
    def encode_video(self, frames: Tensor, memory: Memory | None = None) -> tuple[Tensor, Memory]:
        """Return the float32 latents of a video, see ``EncodesVideo``."""
        video = from_pixels(frames.flatten(0, 1)).unflatten(0, frames.shape[:2])
        return self.vae.encode(video * 2 - 1, memory)
