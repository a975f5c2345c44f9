"""The picture before a scored clip: decoded, and encoded alone, so that it can be a portrait.

Roll-outs may be longer than what teacher and critic were made for. Then only their end is scored,
and what stands before it takes the place that the portrait has in a clip from the beginning.
"""

from typing import Any

import attrs
import torch
from torch import Tensor

from af_train.strips import pictures


@attrs.frozen(eq=False)
class Reencoder:
    """A pipeline's decoder and image encoder."""

    decoder: Any
    encoder: Any

    @torch.no_grad()
    def last_picture(self, latents: Tensor, portrait: Tensor) -> Tensor:
        """Return the last picture of ``latents [b, f, c, h, w]`` as a latent ``[b, 1, c, h, w]``.

        ``portrait [b, 1, c, h, w]`` came before them.
        """
        picture = pictures(latents, portrait, self.decoder)[:, -1]
        return self.encoder.encode(picture.to(latents.device)).to(portrait)
