"""What the network is told from outside, and the values a stream carries."""

from collections import OrderedDict

import attrs
import torch
from torch import Tensor

from af_core.models.wan_config import CausalWanConfig as CausalWanConfig
from af_core.models.wan_layers import LayerModulation, PromptKeys


@attrs.frozen(eq=False)
class Modulation:
    """Shifts, scales and gates of the frames of one pass, for every layer and the head."""

    layers: tuple[LayerModulation, ...]
    head_shift: Tensor
    head_scale: Tensor
    """1 + scale; both ``[b or 1, f, 1, dim]``."""


@attrs.frozen(eq=False)
class Conditions:
    """What stays constant for a stream: portrait, prompt and grid."""

    portrait: Tensor
    """The reference latent ``[b, 1, c, h, w]``."""
    portrait_tokens: Tensor
    """Reference and mask part of the patch embedding of the portrait's own frame [b, s, dim]."""
    other_tokens: Tensor
    """The same for every other frame (mask 1)."""
    text: tuple[PromptKeys | None, ...]
    """What each layer attends to of the prompt."""
    grid: tuple[int, int]
    """Rows and columns of tokens."""
    modulations: OrderedDict[tuple[float, ...], Modulation] = attrs.field(factory=OrderedDict)
    """Modulations already computed, by timesteps; the newest few are kept."""

    @property
    def num_streams(self) -> int:
        """Streams in the batch."""
        return self.portrait_tokens.shape[0]


@attrs.frozen(eq=False)
class KeyValues:
    """Memory: one slot per latent frame in every layer, written in place.

    Keys are stored before rotation, so that a frame may be seen from any position.
    """

    k: Tensor
    """``[layer, b, slot, s, heads, head_dim]``."""
    v: Tensor

    def save(self, layer: int, k: Tensor, v: Tensor, saves: tuple[tuple[int, int], ...]) -> None:
        """Write frames of ``k, v [b, f, s, heads, head_dim]`` into slots, run by run."""
        for frame, slot, count in runs(saves):
            self.k[layer, :, slot : slot + count].copy_(k[:, frame : frame + count])
            self.v[layer, :, slot : slot + count].copy_(v[:, frame : frame + count])


def runs(pairs: tuple[tuple[int, int], ...]) -> list[tuple[int, int, int]]:
    """Group (a, b) pairs that both rise by one into (first a, first b, count)."""
    found: list[tuple[int, int, int]] = []
    for a, b in pairs:
        if found and (a, b) == (found[-1][0] + found[-1][2], found[-1][1] + found[-1][2]):
            found[-1] = (*found[-1][:2], found[-1][2] + 1)
        else:
            found.append((a, b, 1))
    return found


def timestep_features(timesteps: Tensor, dim: int, dtype: torch.dtype) -> Tensor:
    """Describe timesteps ``[...]`` by ``dim`` cosines and sines of float64 angles (spec 1.3)."""
    half = dim // 2
    place = torch.arange(half, dtype=torch.float64, device=timesteps.device)
    angles = timesteps.double()[..., None] * 10_000.0 ** (-place / half)
    return torch.cat([angles.cos(), angles.sin()], dim=-1).to(dtype)
