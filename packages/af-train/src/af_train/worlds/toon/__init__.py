"""The toon world: flat-design avatars that speak, rendered by signed distance functions."""

from af_train.worlds.toon.clip import Clip, sample_clip
from af_train.worlds.toon.identity import Identity, sample_identity
from af_train.worlds.toon.motion import Motion
from af_train.worlds.toon.renderer import TOON_SIZE, render
from af_train.worlds.toon.speech import Speech, Synthesiser

__all__ = [
    "TOON_SIZE",
    "Clip",
    "Identity",
    "Motion",
    "Speech",
    "Synthesiser",
    "render",
    "sample_clip",
    "sample_identity",
]
