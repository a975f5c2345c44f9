"""Shape of the Wan 2.1 autoencoder; no torch, so that a pipeline is checked without it."""

from typing import Literal, NamedTuple

import msgspec

from af_core.errors import ConfigError

LATENT_MEAN = (
    -0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508,
    0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921,
)  # fmt: skip
"""Published mean of each latent channel."""
LATENT_STD = (
    2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743,
    3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160,
)  # fmt: skip
"""Published standard deviation of each latent channel."""

LATENTS_PER_CALL = 4
"""Latents that run through a network at once; more of them are cut into calls of so many."""
HISTORY = 2
"""Frames of the past that a causal convolution sees."""


class WanVAEConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Shape of the autoencoder (8x space, 4x time). The defaults are the published model."""

    dim: int = 96
    """Channels at the resolution of the picture."""
    multipliers: tuple[int, int, int, int] = (1, 2, 4, 4)
    """Channels at each of the four resolutions, in units of ``dim``, finest first."""
    latent_channels: int = 16
    num_res_blocks: int = 2
    """Residual blocks of each resolution of the encoder; the decoder has one more."""
    latent_mean: tuple[float, ...] = LATENT_MEAN
    """Per channel; a denoiser works on ``(latent - mean) / std``."""
    latent_std: tuple[float, ...] = LATENT_STD
    latent_scale_dtype: Literal["float32", "bfloat16"] = "float32"
    """Type in which latents are scaled. The authors' release scales in bfloat16, which puts the
    standard deviation of a channel off by up to 0.41 %; choose it to reproduce the release."""

    def __post_init__(self) -> None:
        if min(self.dim, *self.multipliers, self.latent_channels, self.num_res_blocks) < 1:
            raise ConfigError(
                "dim, multipliers, latent_channels and num_res_blocks must be at least 1, not "
                f"{self.dim}, {self.multipliers}, {self.latent_channels}, {self.num_res_blocks}."
            )
        for name in ("latent_mean", "latent_std"):
            if (count := len(getattr(self, name))) != self.latent_channels:
                raise ConfigError(
                    f"{name} has {count} values for {self.latent_channels} latent channels."
                )

    @property
    def spatial_stride(self) -> int:
        """Pixels per latent along each side."""
        return 2 ** (len(self.multipliers) - 1)

    @property
    def widest(self) -> int:
        """Channels at the resolution of the latents."""
        return self.dim * self.multipliers[-1]


class LayerShape(NamedTuple):
    """One layer of the way down or up."""

    kind: Literal["residual", "down", "up"]
    channels_in: int
    channels_out: int
    in_time: bool = False
    """Whether ``down`` or ``up`` changes the number of frames too."""


def encoder_layers(config: WanVAEConfig) -> list[LayerShape]:
    """Return the layers called ``encoder.downsamples``, in order."""
    widths = [config.dim * m for m in (1, *config.multipliers)]
    layers: list[LayerShape] = []
    for level, width in enumerate(widths[1:]):
        inputs = [widths[level], *(width for _ in range(config.num_res_blocks - 1))]
        layers += [LayerShape("residual", c, width) for c in inputs]
        if level < 3:
            layers.append(LayerShape("down", width, width, in_time=level > 0))
    return layers


def decoder_layers(config: WanVAEConfig) -> list[LayerShape]:
    """Return the layers called ``decoder.upsamples``, in order; ``up`` halves the channels."""
    layers: list[LayerShape] = []
    channels = config.widest
    for level, multiplier in enumerate(reversed(config.multipliers)):
        width = config.dim * multiplier
        inputs = [channels, *(width for _ in range(config.num_res_blocks))]
        layers += [LayerShape("residual", c, width) for c in inputs]
        if level < 3:
            channels = width // 2
            layers.append(LayerShape("up", width, channels, in_time=level < 2))
    return layers
