"""Image encoder: the portrait in, its latent out, once per stream."""

from typing import Any, Protocol, runtime_checkable

from af_core.tensors import Frames, Image, Latents


@runtime_checkable
class ImageEncoder(Protocol):
    """Turns pictures into the normalised latents that denoiser and decoder share."""

    def encode(self, image: Image) -> Latents:
        """Return ``[b, 1, c, h, w]`` for ``uint8 [b, H, W, 3]``."""
        ...


@runtime_checkable
class EncodesVideo(ImageEncoder, Protocol):
    """An image encoder that also takes video: what training data is made with."""

    def encode_video(self, frames: Frames, memory: Any = None) -> tuple[Latents, Any]:
        """Return ``[b, f, c, h, w]`` for ``uint8 [b, t, H, W, 3]``, and what goes on from there.

        Without memory a video begins, its first frame is a latent of its own and ``t`` is
        ``1 + 4 k``; with memory ``t`` is ``4 k``. The first latent is that of ``encode``.
        """
        ...
