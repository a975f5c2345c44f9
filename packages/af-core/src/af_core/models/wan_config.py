"""Shape of the denoising network; no torch, so that a pipeline is checked without it."""

from typing import Literal

import msgspec

from af_core.errors import ConfigError


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
    """Noisy latent, reference latent and one mask channel; without a reference, only the first."""
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
    from_reference: bool = False
    """The network says how the clean latent differs from the reference; needs prediction x0."""
    reference_detail: int = 0
    """Features of the reference per cell that tokens move (see ``ReferenceDetail``); 0: none."""
    frame_mean: bool = False
    """Tell every token the mean of each latent channel of its frame, before the first layer."""
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
        if self.from_reference and self.prediction != "x0":
            raise ConfigError('from_reference adds to a clean estimate: set prediction to "x0".')
        if self.reference_detail and not self.from_reference:
            raise ConfigError("reference_detail adds to the reference: set from_reference.")
        if self.freq_dim % 2:
            raise ConfigError(f"freq_dim={self.freq_dim} must be even: half cosines, half sines.")
        if self.in_channels != self.out_channels and self.reference_channels < 1:
            raise ConfigError(
                f"in_channels={self.in_channels} leaves no room for a reference and a mask; with "
                f"out_channels={self.out_channels} it is {2 * self.out_channels + 1}, or "
                f"{self.out_channels} for a network without a reference."
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
        """Channels of the reference latent; 0 for a network without one, like Wan itself."""
        return max(self.in_channels - self.out_channels - 1, 0)

    @property
    def portrait_channels(self) -> int:
        """Channels of a portrait's latent, also where it is no input besides the frames."""
        return self.reference_channels or self.out_channels

    @property
    def injected_layers(self) -> tuple[int, ...]:
        """Layers before which an audio vector is added, in order."""
        if self.audio_layers is not None:
            return self.audio_layers
        return tuple(range(2, max(self.num_layers // 2 + 1, 2)))
