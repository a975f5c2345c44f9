"""An avatar made of tiny stages, complete in every part and fast enough for any test."""

from af_core.graph import open_pipeline
from af_core.pipeline import Avatar, build
from af_core.plugins import load_catalog
from af_core.testing import tiny_plugin
from af_core.testing.tiny_denoiser import TinyDenoiser as TinyDenoiser
from af_core.testing.tiny_denoiser import TinyNoiseSchedule as TinyNoiseSchedule
from af_core.testing.tiny_stages import TinyAudioEncoder as TinyAudioEncoder
from af_core.testing.tiny_stages import TinyDecoder as TinyDecoder
from af_core.testing.tiny_stages import TinyImageEncoder as TinyImageEncoder
from af_core.testing.tiny_stages import TinyTextEncoder as TinyTextEncoder
from af_core.testing.tiny_stages import TinyTrail as TinyTrail
from af_core.testing.tiny_window import TinyAnchorCache as TinyAnchorCache
from af_core.testing.tiny_window import TinyWindowScheduler as TinyWindowScheduler


def tiny_avatar(**overrides: object) -> Avatar:
    """Return a complete avatar of tiny stages, 48 x 32 pixels, blocks of one latent frame.

    Keywords override keys of its pipeline, a double underscore for each dot:
    ``tiny_avatar(window_scheduler__num_slots=2)``.
    """
    catalog = load_catalog(candidates=[], extra=[("tiny", tiny_plugin)])
    dotted = {key.replace("__", "."): value for key, value in overrides.items()}
    return build(open_pipeline("tiny", dotted, catalog))
