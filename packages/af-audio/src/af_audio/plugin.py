"""The stages of af-audio, registered through the hooks of af-core."""

from typing import Any

from af_core.geometry import Geometry
from af_core.plugins import BuildContext, hookimpl
from af_core.plugins.hookspecs import API_VERSION, Register
from af_core.ports import Declaration, Port, audio_samples, feature_rows

from af_audio.mel_config import MelConvConfig
from af_audio.wav2vec2.config import Wav2Vec2Options

af_plugin_api = API_VERSION


class MelConvOptions(MelConvConfig, frozen=True, forbid_unknown_fields=True):
    """The streaming log-mel and causal convolutional encoder; it needs no look-ahead."""

    weights: str | None = None
    """Safetensors file with its state dict, relative to the pipeline file."""
    seed: int = 0
    """Seed of the initial weights when there is no file."""

    def declare(self, geometry: Geometry) -> Declaration:
        """Return samples in, one row per video frame out."""
        return Declaration(
            (Port("samples", audio_samples()),), (Port("rows", feature_rows(self.feature_dim)),)
        )

    def build(self, context: BuildContext) -> Any:
        """Build the encoder and load its weights."""
        from af_audio.loading import mel_conv

        return mel_conv(self, context)


@hookimpl
def af_register_audio_encoders(register: Register) -> None:
    """Offer the encoder of the embedded default, and the one of the published checkpoints."""
    register("mel_conv", MelConvOptions)
    register("wav2vec2", Wav2Vec2Options)
