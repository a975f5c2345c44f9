"""Streaming talking avatars: ``load`` a preset, ``open`` a stream, ``step`` with speech.

    avatar = af_core.load("toon")
    state = avatar.open(portrait)                   # uint8 [H, W, 3]
    frames, state = avatar.step(state, samples)     # float32 [n] at 16 kHz -> uint8 [1, m, H, W, 3]

Names are imported when they are first used: checking a pipeline or listing plugins needs no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from af_core.errors import AvatarForcingError as AvatarForcingError
    from af_core.geometry import Geometry as Geometry
    from af_core.graph import Pipeline as Pipeline
    from af_core.graph import check_pipeline as check_pipeline
    from af_core.graph import explain as explain
    from af_core.graph import open_pipeline as open_pipeline
    from af_core.pipeline import Avatar as Avatar
    from af_core.pipeline import AvatarInfo as AvatarInfo
    from af_core.pipeline import AvatarState as AvatarState
    from af_core.pipeline import build as build
    from af_core.pipeline import load as load
    from af_core.plugins import hookimpl as hookimpl
    from af_core.snapshots.value import Snapshot as Snapshot

_HOME = {
    "Avatar": "af_core.pipeline",
    "AvatarForcingError": "af_core.errors",
    "AvatarInfo": "af_core.pipeline",
    "AvatarState": "af_core.pipeline",
    "Geometry": "af_core.geometry",
    "Pipeline": "af_core.graph",
    "Snapshot": "af_core.snapshots.value",
    "build": "af_core.pipeline",
    "check_pipeline": "af_core.graph",
    "explain": "af_core.graph",
    "hookimpl": "af_core.plugins",
    "load": "af_core.pipeline",
    "open_pipeline": "af_core.graph",
}

__all__ = [
    "Avatar",
    "AvatarForcingError",
    "AvatarInfo",
    "AvatarState",
    "Geometry",
    "Pipeline",
    "Snapshot",
    "build",
    "check_pipeline",
    "explain",
    "hookimpl",
    "load",
    "open_pipeline",
]


def __getattr__(name: str) -> object:
    """Import a public name from the module that is its home."""
    if name not in _HOME:
        raise AttributeError(f"module 'af_core' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    """Return the public names."""
    return sorted(__all__)
