"""The kinds of things a plugin can offer, and the hook that collects each."""

import attrs


@attrs.frozen
class Kind:
    """One sort of offer."""

    name: str
    """Word used in pipeline files and messages, such as ``noise_schedule``."""
    hook: str
    """Name of the hook that registers it."""
    declares: bool = False
    """Whether its configs must tell their ports with ``declare(geometry)``."""
    config: bool = True
    """Whether it is registered with a config class; presets come as files."""

    @property
    def words(self) -> str:
        """Return the kind as it is spoken of in messages."""
        return self.name.replace("_", " ")


KINDS = (
    Kind("audio_encoder", "af_register_audio_encoders", declares=True),
    Kind("image_encoder", "af_register_image_encoders", declares=True),
    Kind("text_encoder", "af_register_text_encoders", declares=True),
    Kind("noise_schedule", "af_register_noise_schedules"),
    Kind("window_scheduler", "af_register_window_schedulers", declares=True),
    Kind("anchor_cache", "af_register_anchor_caches", declares=True),
    Kind("denoiser", "af_register_denoisers", declares=True),
    Kind("decoder", "af_register_decoders", declares=True),
    Kind("node", "af_register_nodes", declares=True),
    Kind("preset", "af_register_presets", config=False),
    Kind("objective", "af_register_objectives"),
    Kind("metric", "af_register_metrics"),
)
"""Every kind, in the order of a pipeline."""

BY_NAME = {kind.name: kind for kind in KINDS}
BY_HOOK = {kind.hook: kind for kind in KINDS}
