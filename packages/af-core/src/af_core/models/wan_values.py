"""What the network is told from outside: its config, and the values a stream carries."""

from collections import OrderedDict
from typing import Literal

import attrs
import msgspec
import torch
from torch import Tensor

from af_core.errors import ConfigError
from af_core.models.wan_layers import LayerModulation


class CausalWanConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Shape of the denoising network. The defaults are the published 1.3B model."""

    dim: int = 1536
    """Width of a token."""
    ffn_dim: int = 8960
    """Width inside the feed-forward."""
    num_layers: int = 30
    num_heads: int = 12
    freq_dim: int = 256
    """Cosines and sines that describe a timestep."""
    patch: int = 2
    """Latent cells of one token along a side; time is never patched."""
    in_channels: int = 33
    """Noisy latent, reference latent and one mask channel."""
    out_channels: int = 16
    """Latent channels."""
    text_dim: int | None = 4096
    """Width of the prompt embedding; None builds no text cross-attention at all."""
    text_len: int = 512
    """Rows of the prompt embedding, padding included; read only with text."""
    audio_dim: int = 10_752
    """Width of one audio feature row (one video frame)."""
    audio_hidden: int = 32
    """Width of the packed audio vector of one latent frame."""
    audio_layers: tuple[int, ...] | None = None
    """Layers before which audio enters; None: 2 to half the depth, as published."""
    prediction: Literal["velocity", "x0"] = "velocity"
    """What the output means; a noise schedule turns it into the clean estimate."""
    qk_norm: bool = True
    """Root-mean-square norm of queries and keys over the full width."""
    eps: float = 1e-6
    """Of every norm but the audio one."""
    rope_theta: float = 10_000.0
    """Base of the rotary frequencies."""

    def __post_init__(self) -> None:
        if self.dim % self.num_heads or (self.dim // self.num_heads) % 2:
            raise ConfigError(
                f"dim={self.dim} does not split into {self.num_heads} heads of even width."
            )
        if self.freq_dim % 2:
            raise ConfigError(f"freq_dim={self.freq_dim} must be even: half cosines, half sines.")
        if self.reference_channels < 1:
            raise ConfigError(
                f"in_channels={self.in_channels} leaves no room for a reference; with "
                f"out_channels={self.out_channels} it is {2 * self.out_channels + 1}."
            )
        outside = [i for i in self.injected_layers if not 0 <= i < self.num_layers]
        if outside:
            raise ConfigError(f"audio_layers {outside} do not exist in {self.num_layers} layers.")

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.dim // self.num_heads

    @property
    def reference_channels(self) -> int:
        """Channels of the reference latent."""
        return self.in_channels - self.out_channels - 1

    @property
    def injected_layers(self) -> tuple[int, ...]:
        """Layers before which an audio vector is added, in order."""
        if self.audio_layers is not None:
            return self.audio_layers
        return tuple(range(2, max(self.num_layers // 2 + 1, 2)))


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

    portrait_tokens: Tensor
    """Reference and mask part of the patch embedding of the portrait's own frame [b, s, dim]."""
    other_tokens: Tensor
    """The same for every other frame (mask 1)."""
    text: tuple[tuple[Tensor, Tensor] | None, ...]
    """Keys and values of the prompt for each layer, ``[b, token, heads, head_dim]``."""
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
