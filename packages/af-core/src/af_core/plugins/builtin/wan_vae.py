"""Options of both halves of the Wan 2.1 autoencoder, as they stand in a pipeline file."""

from typing import Any, Literal

from af_core.errors import ConfigError
from af_core.geometry import Geometry
from af_core.models.wan_vae_config import LATENTS_PER_CALL, WanVAEConfig
from af_core.models.wan_vae_shape import decoder_memory, decoder_parameters, encoder_parameters
from af_core.plugins.builtin.networks import bytes_kept, require_share, require_stride
from af_core.plugins.contract import BuildContext
from af_core.ports import (
    BYTES,
    Declaration,
    Port,
    latent_frames,
    portrait_image,
    portrait_latent,
    video_frames,
)


class WanVAEOptions(WanVAEConfig, frozen=True, forbid_unknown_fields=True):
    """The Wan 2.1 autoencoder; without weights it is initialised from ``seed``, for tests."""

    weights: str | None = None
    """File with the authors' names or those of diffusers, relative to the pipeline file. It may
    hold both halves; the one that is used is kept."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of weights and activations."""
    seed: int = 0
    """Seed of the initial weights when there is no file."""


class WanVAEDecoderOptions(WanVAEOptions, frozen=True, forbid_unknown_fields=True):
    """The decoder half of the Wan 2.1 autoencoder."""

    latents_per_call: int = LATENTS_PER_CALL
    """Latents that are decoded at once; more need memory in proportion, fewer some time."""
    rounding: Literal["nearest", "truncate"] = "nearest"
    """From colours to pixels; ``truncate`` is what the authors' release does."""
    still: float = 0.0
    """Show the portrait's own pixels where frames differ from it by less than this; 0: off."""

    def __post_init__(self) -> None:
        """Refuse calls without latents, and a difference that is none."""
        super().__post_init__()
        if self.latents_per_call < 1:
            raise ConfigError(f"latents_per_call={self.latents_per_call} must be at least 1.")
        require_share("still", self.still)

    def declare(self, geometry: Geometry) -> Declaration:
        """Return latents in, frames out; two frames of each convolution are kept per stream."""
        require_stride(self.spatial_stride, geometry)
        numbers = decoder_memory(self, geometry.latent_height, geometry.latent_width)
        return Declaration(
            (Port("latents", latent_frames(geometry, self.latent_channels)),),
            (Port("frames", video_frames(geometry)),),
            num_parameters=decoder_parameters(self),
            bytes_per_parameter=BYTES[self.dtype],
            bytes_per_stream=BYTES[self.dtype] * numbers + bytes_kept(geometry, self.still),
        )

    def build(self, context: BuildContext) -> Any:
        """Build the decoder and load its weights."""
        from af_core.plugins.builtin.loading import wan_vae_decoder

        return wan_vae_decoder(self, context)


class WanVAEImageOptions(WanVAEOptions, frozen=True, forbid_unknown_fields=True):
    """The encoder half of the Wan 2.1 autoencoder, for portraits."""

    def declare(self, geometry: Geometry) -> Declaration:
        """Return a picture in, one latent out."""
        require_stride(self.spatial_stride, geometry)
        return Declaration(
            (Port("image", portrait_image(geometry)),),
            (Port("latent", portrait_latent(geometry, self.latent_channels)),),
            num_parameters=encoder_parameters(self),
            bytes_per_parameter=BYTES[self.dtype],
        )

    def build(self, context: BuildContext) -> Any:
        """Build the encoder and load its weights."""
        from af_core.plugins.builtin.loading import wan_vae_image_encoder

        return wan_vae_image_encoder(self, context)
