"""A plugin of tiny stages, one for every kind: an example to read and a pipeline to test with.

Register it with ``load_catalog(extra=[("tiny", tiny_plugin)])``; its preset is called ``tiny``.
"""

from pathlib import Path
from typing import Any

import msgspec

from af_core.geometry import VIDEO_FPS, Geometry
from af_core.plugins import BuildContext, hookimpl
from af_core.plugins.hookspecs import Register, RegisterPreset
from af_core.ports import (
    Declaration,
    Format,
    Port,
    audio_samples,
    feature_rows,
    latent_frames,
    portrait_image,
    portrait_latent,
    text_rows,
    video_frames,
)

af_plugin_api = 1

FEATURES = 4
"""Width of a tiny feature row."""
CHANNELS = 2
"""Channels of a tiny latent."""


class TinyAudioOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Energy of each frame of sound, and of the samples just after it."""

    lookahead_samples: int = 0
    """Samples after a frame that its row listens to."""

    def declare(self, geometry: Geometry) -> Declaration:
        """Return samples in, rows of four numbers out."""
        return Declaration(
            (Port("samples", audio_samples()),),
            (Port("rows", feature_rows(FEATURES)),),
            lookahead_ms=self.lookahead_samples / 16,
            num_parameters=0,
        )

    def build(self, context: BuildContext) -> Any:
        """Build the encoder."""
        from af_core.testing.tiny_stages import TinyAudioEncoder

        return TinyAudioEncoder(self.lookahead_samples)


class TinyImageOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The portrait, averaged over each latent cell."""

    def declare(self, geometry: Geometry) -> Declaration:
        """Return a picture in, one latent out."""
        return Declaration(
            (Port("image", portrait_image(geometry)),),
            (Port("latent", portrait_latent(geometry, CHANNELS)),),
            num_parameters=0,
        )

    def build(self, context: BuildContext) -> Any:
        """Build the encoder."""
        from af_core.testing.tiny_stages import TinyImageEncoder

        return TinyImageEncoder(context.geometry)


class TinyTextOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Letters of the prompt as numbers."""

    length: int = 8
    """Rows of the embedding."""

    def declare(self, geometry: Geometry) -> Declaration:
        """Return a prompt in, rows out."""
        return Declaration(
            (Port("prompt", Format("text")),), (Port("embeddings", text_rows(1)),), num_parameters=0
        )

    def build(self, context: BuildContext) -> Any:
        """Build the encoder."""
        from af_core.testing.tiny_stages import TinyTextEncoder

        return TinyTextEncoder(self.length)


class TinyWindowOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Two blocks at a time: the older one leaves when the newer one is heard."""

    def declare(self, geometry: Geometry) -> Declaration:
        """Return the delay of two blocks."""
        block_ms = geometry.block_ms
        return Declaration(
            block_ms=block_ms,
            lookahead_ms=block_ms,
            num_rungs=2,
            facts={"window": "2 blocks", "passes": "1 per block"},
        )

    def build(self, context: BuildContext) -> Any:
        """Build the scheduler."""
        from af_core.testing.tiny_window import TinyWindowScheduler

        return TinyWindowScheduler(context.stages["noise_schedule"])


class TinyAnchorOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The last latent frame and nothing else."""

    def declare(self, geometry: Geometry) -> Declaration:
        """Return the one latent that is held."""
        return Declaration(latents_held=1, facts={"anchor": "the last latent frame"})

    def build(self, context: BuildContext) -> Any:
        """Build the cache."""
        from af_core.testing.tiny_window import TinyAnchorCache

        return TinyAnchorCache()


class TinyScheduleOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Evenly spaced noise levels."""

    def build(self, context: BuildContext) -> Any:
        """Build the schedule."""
        from af_core.testing.tiny_denoiser import TinyNoiseSchedule

        return TinyNoiseSchedule()


class TinyDenoiserOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A function of everything it is given, so that any slip shows."""

    def declare(self, geometry: Geometry) -> Declaration:
        """Return rows and the portrait in, blocks of latents out."""
        return Declaration(
            (
                Port("rows", feature_rows(FEATURES)),
                Port("portrait", portrait_latent(geometry, CHANNELS)),
            ),
            (Port("latents", latent_frames(geometry, CHANNELS, geometry.block_latents)),),
            num_parameters=0,
            bytes_per_latent=4 * CHANNELS * geometry.latent_height * geometry.latent_width,
        )

    def build(self, context: BuildContext) -> Any:
        """Build the network that is none."""
        from af_core.testing.tiny_denoiser import TinyDenoiser

        return TinyDenoiser()


class TinyDecoderOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Latent cells as squares of colour, faded over from the latent before."""

    def declare(self, geometry: Geometry) -> Declaration:
        """Return latents in, frames out."""
        return Declaration(
            (Port("latents", latent_frames(geometry, CHANNELS)),),
            (Port("frames", video_frames(geometry)),),
            num_parameters=0,
        )

    def build(self, context: BuildContext) -> Any:
        """Build the decoder."""
        from af_core.testing.tiny_stages import TinyDecoder

        return TinyDecoder(context.geometry)


class TinyTrailOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A node of one's own: each frame keeps a trace of the frames before it."""

    keep: float = 0.5
    """Share of the past in each frame."""
    fps: int = VIDEO_FPS
    """Frame rate it is made for; another one than the pipeline's makes a wrong edge."""

    def declare(self, geometry: Geometry) -> Declaration:
        """Return frames in, frames out."""
        import attrs

        taken = attrs.evolve(video_frames(geometry), rate_hz=self.fps)
        return Declaration(
            (Port("frames", taken),), (Port("frames", video_frames(geometry)),), num_parameters=0
        )

    def build(self, context: BuildContext) -> Any:
        """Build the node."""
        from af_core.testing.tiny_stages import TinyTrail

        return TinyTrail(self.keep)


@hookimpl
def af_register_audio_encoders(register: Register) -> None:
    """Offer the tiny audio encoder."""
    register("tiny", TinyAudioOptions)


@hookimpl
def af_register_image_encoders(register: Register) -> None:
    """Offer the tiny image encoder."""
    register("tiny", TinyImageOptions)


@hookimpl
def af_register_text_encoders(register: Register) -> None:
    """Offer the tiny text encoder."""
    register("tiny", TinyTextOptions)


@hookimpl
def af_register_window_schedulers(register: Register) -> None:
    """Offer the tiny window scheduler."""
    register("tiny", TinyWindowOptions)


@hookimpl
def af_register_anchor_caches(register: Register) -> None:
    """Offer the tiny anchor cache."""
    register("tiny", TinyAnchorOptions)


@hookimpl
def af_register_noise_schedules(register: Register) -> None:
    """Offer the tiny noise schedule."""
    register("tiny", TinyScheduleOptions)


@hookimpl
def af_register_denoisers(register: Register) -> None:
    """Offer the tiny denoiser."""
    register("tiny", TinyDenoiserOptions)


@hookimpl
def af_register_decoders(register: Register) -> None:
    """Offer the tiny decoder."""
    register("tiny", TinyDecoderOptions)


@hookimpl
def af_register_nodes(register: Register) -> None:
    """Offer the tiny trail."""
    register("tiny_trail", TinyTrailOptions)


@hookimpl
def af_register_presets(register: RegisterPreset) -> None:
    """Offer the pipeline made of all of them."""
    register("tiny", Path(__file__).with_name("tiny.yaml"))
