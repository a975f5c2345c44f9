"""Options of the networks: their shape, and the file with their weights."""

from typing import Any, Literal

from af_core.errors import ConfigError
from af_core.geometry import Geometry
from af_core.models.tiny_vae_config import TinyVAEConfig
from af_core.models.wan_config import CausalWanConfig
from af_core.plugins.contract import BuildContext
from af_core.ports import (
    BYTES,
    Declaration,
    Port,
    feature_rows,
    latent_frames,
    portrait_image,
    portrait_latent,
    text_rows,
    video_frames,
)

BYTES_OF_KEYS = 4
"""Bytes of one number of a key or value, in float32."""


class CausalWanOptions(CausalWanConfig, frozen=True, forbid_unknown_fields=True):
    """The causal Wan network; without weights it is initialised from ``seed``, for tests."""

    weights: str | None = None
    """Checkpoint, relative to the pipeline file: safetensors, or PyTorch's as published."""
    entry: str | None = None
    """State dict to take of several in the file, such as ``generator_ema``; None: ``generator``."""
    attention: Literal["auto", "sdpa", "explicit"] = "auto"
    """Kernel of the attention; ``auto`` races both on a CPU, so loads may differ by rounding."""
    merge_padding: bool = True
    """In float32, the rows of padding of a prompt are attended to as one key, which is exact."""
    lora_alpha: float = 64.0
    """Strength of low-rank adapters found in the file, which are merged: alpha / rank."""
    seed: int = 0
    """Seed of the initial weights when there is no file."""

    def declare(self, geometry: Geometry) -> Declaration:
        """Return rows and the portrait in, blocks of latents out; keys and values per latent."""
        channels = self.out_channels
        return Declaration(
            (
                Port("rows", feature_rows(self.audio_dim)),
                Port("portrait", portrait_latent(geometry, self.portrait_channels)),
                *(() if self.text_dim is None else (Port("text", text_rows(self.text_dim)),)),
            ),
            (Port("latents", latent_frames(geometry, channels, geometry.block_latents)),),
            num_parameters=num_parameters(self),
            bytes_per_latent=2
            * BYTES_OF_KEYS
            * self.num_layers
            * geometry.tokens_per_latent
            * self.dim,
            facts={
                "network": f"{self.num_layers} layers of width {self.dim}, {self.num_heads} heads, "
                f"predicts {self.prediction}"
            },
        )

    def build(self, context: BuildContext) -> Any:
        """Build the network and load its weights."""
        from af_core.plugins.builtin.loading import causal_wan

        return causal_wan(self, context)


class TinyVAEOptions(TinyVAEConfig, frozen=True, forbid_unknown_fields=True):
    """The tiny video autoencoder; without weights it is initialised from ``seed``, for tests."""

    weights: str | None = None
    """Safetensors file with its state dict, relative to the pipeline file."""
    seed: int = 0
    """Seed of the initial weights when there is no file."""


class TinyVAEDecoderOptions(TinyVAEOptions, frozen=True, forbid_unknown_fields=True):
    """The decoder half of the tiny video autoencoder."""

    still: float = 0.0
    """Show the portrait's own pixels where frames differ from it by less than this (of 1); 0: off.
    Right for a camera and a head that hardly move."""
    soft_borders: float = 0.0
    """How much of the first frame of each latent is the mean of the frames around it; 0: off.
    Right where each latent is a block, drawn by a pass of its own."""

    def __post_init__(self) -> None:
        """Refuse what is not from 0 to 1."""
        require_share("still", self.still)
        require_share("soft_borders", self.soft_borders)

    def declare(self, geometry: Geometry) -> Declaration:
        """Return latents in, frames out."""
        require_stride(self.spatial_stride, geometry)
        return Declaration(
            (Port("latents", latent_frames(geometry, self.latent_channels)),),
            (Port("frames", video_frames(geometry)),),
            num_parameters=self.decoder_parameters,
            bytes_per_stream=BYTES["float32"]
            * self.decoder_memory(geometry.latent_height, geometry.latent_width)
            + bytes_kept(geometry, self.still, self.soft_borders),
        )

    def build(self, context: BuildContext) -> Any:
        """Build the decoder and load its weights."""
        from af_core.plugins.builtin.loading import tiny_vae_decoder

        return tiny_vae_decoder(self, context)


class TinyVAEImageOptions(TinyVAEOptions, frozen=True, forbid_unknown_fields=True):
    """The encoder half of the tiny video autoencoder, for portraits."""

    def declare(self, geometry: Geometry) -> Declaration:
        """Return a picture in, one latent out."""
        require_stride(self.spatial_stride, geometry)
        return Declaration(
            (Port("image", portrait_image(geometry)),),
            (Port("latent", portrait_latent(geometry, self.latent_channels)),),
            num_parameters=self.encoder_parameters,
        )

    def build(self, context: BuildContext) -> Any:
        """Build the encoder and load its weights."""
        from af_core.plugins.builtin.loading import tiny_vae_image_encoder

        return tiny_vae_image_encoder(self, context)


def bytes_kept(geometry: Geometry, still: float, soft_borders: float = 0.0) -> int:
    """Return what decoders around a decoder keep of a stream: two float32 frames, one uint8."""
    per_value = 2 * BYTES["float32"] * bool(still) + bool(soft_borders)
    return 3 * geometry.height * geometry.width * per_value


def require_share(name: str, value: float) -> None:
    """Refuse what is no share of 1."""
    if not 0 <= value <= 1:
        raise ConfigError(f"{name}={value:g} must be from 0 to 1.")


def require_stride(stride: int, geometry: Geometry) -> None:
    """Refuse an autoencoder whose pixels per latent cell are not those of the geometry."""
    if stride != geometry.spatial_stride:
        raise ValueError(
            f"This autoencoder has {stride} pixels per latent cell, the geometry has "
            f"{geometry.spatial_stride}. Write geometry.spatial_stride: {stride}."
        )


def num_parameters(c: CausalWanConfig) -> int:
    """Return the number of weights of the network, counted from its shape."""
    attention = 4 * (c.dim * c.dim + c.dim) + (2 * c.dim if c.qk_norm else 0)
    cross = attention + 2 * c.dim if c.text_dim is not None else 0
    ffn = 2 * c.dim * c.ffn_dim + c.ffn_dim + c.dim
    layers = c.num_layers * (attention + cross + ffn + 6 * c.dim)
    cell = c.patch**2
    patches = c.in_channels * cell * c.dim + c.dim
    time = c.freq_dim * c.dim + c.dim + c.dim * c.dim + c.dim + 6 * (c.dim * c.dim + c.dim)
    head = c.dim * cell * c.out_channels + cell * c.out_channels + 2 * c.dim
    text = 0 if c.text_dim is None else c.text_dim * c.dim + c.dim + c.dim * c.dim + c.dim
    mean = (c.out_channels + c.dim + 2) * c.dim if c.frame_mean else 0
    return layers + patches + time + head + text + mean + _detail(c) + _audio(c)


def _detail(c: CausalWanConfig) -> int:
    width = c.reference_detail
    if not width:
        return 0
    look = 9 * c.out_channels * width + width
    return look + c.patch**2 * width * (c.dim + 1) + width * c.out_channels


def _audio(c: CausalWanConfig) -> int:
    places = len(c.injected_layers)
    if not places:
        return 0
    packed = 4 * c.audio_dim
    norm = 2 * c.audio_hidden
    return (
        packed * c.audio_hidden + c.audio_hidden + norm + places * (c.audio_hidden * c.dim + c.dim)
    )
