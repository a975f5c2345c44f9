"""Softens the border between latents: a decoder around any decoder.

Where every latent is drawn by a pass of its own, errors of neighbours differ, and the picture jumps
a little at every border, six times a second. The first frame of a latent is moved towards the mean
of the frames before and after it. Both are there already, so nothing waits; other frames stay.
"""

from typing import Any

import attrs
import torch
from torch import Tensor, nn

from af_core.geometry import TEMPORAL_STRIDE
from af_core.stages.decoder import Decoder, SeesPortrait
from af_core.stages.sharing import SharesSteps


@attrs.frozen(eq=False)
class SoftBordersState:
    """What one batch of streams remembers."""

    inner: Any
    """State of the decoder inside."""
    last: Tensor | None = None
    """The newest frame, uint8 ``[b, 1, H, W, 3]``; None before the first."""


class SoftBorders(nn.Module):
    """A ``Decoder`` whose latents' first frames are, to a ``share``, means of their neighbours.

    Shown portraits are shown to the decoder inside, if it wants to see them (``SeesPortrait``).
    """

    def __init__(self, decoder: Decoder[Any], share: float) -> None:
        super().__init__()
        self.decoder = decoder
        self.share = share

    @property
    def shares_steps(self) -> bool:
        """Whether the decoder inside serves streams at once (`SharesSteps`)."""
        return isinstance(self.decoder, SharesSteps) and self.decoder.shares_steps

    def open(self, num_streams: int) -> SoftBordersState:
        """Return the state before the first latent."""
        return SoftBordersState(self.decoder.open(num_streams))

    def open_seeing(self, portraits: Tensor) -> SoftBordersState:
        """Return the state of streams with portraits uint8 ``[b, H, W, 3]``."""
        if isinstance(self.decoder, SeesPortrait):
            return SoftBordersState(self.decoder.open_seeing(portraits))
        return self.open(len(portraits))

    @torch.no_grad()
    def step(self, state: SoftBordersState, latents: Tensor) -> tuple[Tensor, SoftBordersState]:
        """Decode ``[b, f, c, h, w]`` to uint8 ``[b, n, H, W, 3]``; the first latent gives 1 frame.

        That one has no border before it and stays as it is.
        """
        frames, inner = self.decoder.step(state.inner, latents)
        shown = frames.clone()
        if state.last is not None:
            soften(shown, frames, state.last, self.share)
        elif frames.shape[1] > 1:
            soften(shown[:, 1:], frames[:, 1:], frames[:, :1], self.share)
        return shown, SoftBordersState(inner, frames[:, -1:].clone())


def soften(shown: Tensor, frames: Tensor, before: Tensor, share: float) -> None:
    """Write soft first frames of latents to ``shown``, from ``frames`` uint8 ``[b, 4 f, H, W, 3]``.

    ``before [b, 1, H, W, 3]`` is the frame before them. First frames become
    ``(1 - share) x[i] + share (x[i - 1] + x[i + 1]) / 2``.
    """
    stride = TEMPORAL_STRIDE
    earlier = torch.cat([before, frames[:, stride - 1 : -1 : stride]], 1)
    around = earlier.float().add_(frames[:, 1::stride]).mul_(share / 2)
    shown[:, ::stride] = around.add_(frames[:, ::stride], alpha=1 - share).round_()
