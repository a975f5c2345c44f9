"""Image encoder: the portrait in, its latent out, once per stream."""

from typing import Protocol, runtime_checkable

from af_core.tensors import Image, Latents


@runtime_checkable
class ImageEncoder(Protocol):
    """Turns pictures into the normalised latents that denoiser and decoder share."""

    def encode(self, image: Image) -> Latents:
        """Return ``[b, 1, c, h, w]`` for ``uint8 [b, H, W, 3]``."""
        ...
