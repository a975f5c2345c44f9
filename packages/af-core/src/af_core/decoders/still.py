"""Shows the portrait itself where nothing changes: a decoder around any decoder.

No autoencoder draws a picture quite as it is, and no network predicts "no change" quite as none;
both show as softness and as a faint flicker of what should stand still. What is drawn is compared
with the portrait as the same decoder draws it. Where they differ by less than a threshold, the
portrait's own pixels are shown; where a mouth moves, what was drawn.
"""

from typing import Any

import attrs
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from af_core.stages.decoder import Decoder
from af_core.stages.sharing import SharesSteps

NEIGHBOURHOOD = 0.07
"""Side of the square in which changes are averaged, as a share of the picture's shorter side."""
SURE = 1.25
"""With it, what changes by twice the threshold is shown entirely as drawn."""


@attrs.frozen(eq=False)
class StillState:
    """What one batch of streams remembers."""

    inner: Any
    """State of the decoder inside."""
    portrait: Tensor
    """The portrait's pixels, float32 in 0..255 ``[b, 1, H, W, 3]``."""
    drawn: Tensor | None = None
    """The same as the decoder draws them; None before the portrait's latent came."""


class StillDecoder(nn.Module):
    """A ``Decoder`` that has seen the portrait (``SeesPortrait``); causal, frame by frame.

    ``threshold`` is the root-mean-square difference in 0..1 below which nothing is said to change.
    """

    def __init__(self, decoder: Decoder[Any], threshold: float) -> None:
        super().__init__()
        self.decoder = decoder
        self.threshold = threshold

    @property
    def shares_steps(self) -> bool:
        """Whether the decoder inside serves streams at once (`SharesSteps`)."""
        return isinstance(self.decoder, SharesSteps) and self.decoder.shares_steps

    def open(self, num_streams: int) -> Any:
        """Return the state of streams whose portrait was not shown: they are drawn as they are."""
        return self.decoder.open(num_streams)

    def open_seeing(self, portraits: Tensor) -> StillState:
        """Return the state of streams with portraits uint8 ``[b, H, W, 3]``."""
        return StillState(self.decoder.open(len(portraits)), portraits[:, None].float())

    @torch.no_grad()
    def step(self, state: Any, latents: Tensor) -> tuple[Tensor, Any]:
        """Decode ``[b, f, c, h, w]`` to uint8 ``[b, n, H, W, 3]``; the first latent gives 1 frame.

        That first one is the portrait's.
        """
        if not isinstance(state, StillState):
            return self.decoder.step(state, latents)
        frames, inner = self.decoder.step(state.inner, latents)
        drawn = frames[:, :1].float() if state.drawn is None else state.drawn
        shown = keep_still(frames.float(), drawn, state.portrait, self.threshold)
        return shown.round_().to(torch.uint8), StillState(inner, state.portrait, drawn)


def keep_still(frames: Tensor, drawn: Tensor, portrait: Tensor, threshold: float) -> Tensor:
    """Return ``frames [b, n, H, W, 3]`` with the portrait where they are as ``drawn``; 0..255.

    ``drawn`` and ``portrait`` are ``[b, 1, H, W, 3]``: the portrait by the decoder, and itself.
    """
    change = ((frames - drawn) / 255).square().mean(-1).flatten(0, 1)[:, None]
    near = _neighbourhood(change)[:, 0, ..., None].unflatten(0, frames.shape[:2])
    share = (SURE * near / (near + threshold**2)).clamp_(max=1)
    return torch.lerp(portrait.expand_as(frames), frames, share)


def _neighbourhood(x: Tensor) -> Tensor:
    """Average ``[n, 1, H, W]`` over a square around each pixel."""
    reach = max(1, round(NEIGHBOURHOOD * min(x.shape[-2:]) / 2))
    padded = F.pad(x, [reach] * 4, mode="replicate")
    return F.avg_pool2d(padded, 2 * reach + 1, stride=1)
