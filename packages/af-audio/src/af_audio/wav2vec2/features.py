"""The network of wav2vec 2.0 from samples to rows, at 25 rows a second.

The order is that of the AvatarForcing release: convolutions at 50 Hz, every second frame of them,
and the transformer at 25 Hz. For 640 N samples the convolutions give 2 N - 1 frames, so the
release's interpolation to N frames (ends aligned) is exactly this decimation.
"""

from typing import Any

import attrs
import torch
from torch import Tensor, nn

from af_audio.wav2vec2.config import Wav2Vec2Shape


@attrs.frozen(eq=False)
class Gains:
    """The first convolution's GroupNorm with statistics from elsewhere: ``gain * y + offset``."""

    gain: Tensor
    """``[b, channel, 1]``"""
    offset: Tensor
    """``[b, channel, 1]``"""


class Wav2Vec2Features(nn.Module):
    """Weights of a ``transformers.Wav2Vec2Model``, without what only training needs."""

    def __init__(self, model: Any, shape: Wav2Vec2Shape) -> None:
        super().__init__()
        self.shape = shape
        self.convolutions: nn.ModuleList = model.feature_extractor.conv_layers
        self.projection: nn.Module = model.feature_projection
        self.positions: nn.Module = model.encoder.pos_conv_embed
        self.norm: nn.Module = model.encoder.layer_norm
        self.layers: nn.ModuleList = model.encoder.layers

    @property
    def first(self) -> Any:
        """The first convolution with its GroupNorm: ``conv``, ``layer_norm``, ``activation``."""
        return self.convolutions[0]

    def forward(
        self, samples: Tensor, gains: Gains | None = None, keep: slice = slice(None)
    ) -> Tensor:
        """Map normalised samples float32 ``[b, 640 N]`` to rows float32 ``[b, N, feature_dim]``.

        A row is ``[last | hs0 | hs1 | ... | last]``: the output of the last layer, the input of
        the first one, and the output of every layer. ``gains`` replace the statistics of this
        window in the first convolution's norm; ``keep`` picks the rows to return.
        """
        x = self._convolved(samples[:, None].to(self.first.conv.weight.dtype), gains)
        x, _ = self.projection(x[..., ::2].transpose(1, 2))
        x = self.norm(x + self.positions(x))
        hidden = [x]
        for layer in self.layers:
            made = layer(x)
            x = made if isinstance(made, Tensor) else made[0]  # a tuple before transformers 5
            hidden.append(x)
        return torch.cat([h[:, keep] for h in (x, *hidden)], dim=-1).float()

    def _convolved(self, x: Tensor, gains: Gains | None) -> Tensor:
        """Map ``[b, 1, 640 N]`` to ``[b, channel, 2 N - 1]``."""
        if gains is None:
            x = self.first(x)
        else:
            made = self.first.conv(x)  # the largest tensor of all: changed in place
            x = self.first.activation(made.mul_(gains.gain).add_(gains.offset))
        for layer in self.convolutions[1:]:
            x = layer(x)
        return x
