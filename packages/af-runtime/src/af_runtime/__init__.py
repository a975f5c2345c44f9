"""Run streaming avatars: clips, media files, benchmarks, the command line.

    clip = af_runtime.generate("iris", "speech.wav", "clip.mp4")

Names are imported when they are first used: the command line stays quick, and listing plugins
imports neither torch nor FFmpeg.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from af_runtime.background import BackgroundWriter as BackgroundWriter
    from af_runtime.benchmark import bench as bench
    from af_runtime.contact_sheet import ContactSheet as ContactSheet
    from af_runtime.domain import domain_warning as domain_warning
    from af_runtime.domain import flat_share as flat_share
    from af_runtime.errors import MediaError as MediaError
    from af_runtime.errors import PortraitError as PortraitError
    from af_runtime.errors import RequestError as RequestError
    from af_runtime.errors import UnavailableError as UnavailableError
    from af_runtime.gallery import find_portrait as find_portrait
    from af_runtime.gallery import shipped_portraits as shipped_portraits
    from af_runtime.generation import Clip as Clip
    from af_runtime.generation import GenerationInterrupted as GenerationInterrupted
    from af_runtime.generation import Progress as Progress
    from af_runtime.generation import generate as generate
    from af_runtime.media import Mp4Writer as Mp4Writer
    from af_runtime.media import VideoSettings as VideoSettings
    from af_runtime.portrait import load_portrait as load_portrait
    from af_runtime.text.encoding import encode_prompts as encode_prompts
    from af_runtime.text.files import EncoderFiles as EncoderFiles

_HOME = {
    "BackgroundWriter": "background",
    "Clip": "generation",
    "ContactSheet": "contact_sheet",
    "EncoderFiles": "text.files",
    "GenerationInterrupted": "generation",
    "MediaError": "errors",
    "Mp4Writer": "media",
    "PortraitError": "errors",
    "Progress": "generation",
    "RequestError": "errors",
    "UnavailableError": "errors",
    "VideoSettings": "media",
    "bench": "benchmark",
    "domain_warning": "domain",
    "encode_prompts": "text.encoding",
    "find_portrait": "gallery",
    "flat_share": "domain",
    "generate": "generation",
    "load_portrait": "portrait",
    "shipped_portraits": "gallery",
}

__all__ = [
    "BackgroundWriter",
    "Clip",
    "ContactSheet",
    "EncoderFiles",
    "GenerationInterrupted",
    "MediaError",
    "Mp4Writer",
    "PortraitError",
    "Progress",
    "RequestError",
    "UnavailableError",
    "VideoSettings",
    "bench",
    "domain_warning",
    "encode_prompts",
    "find_portrait",
    "flat_share",
    "generate",
    "load_portrait",
    "shipped_portraits",
]


def __getattr__(name: str) -> object:
    """Import a public name from the module that is its home."""
    if name not in _HOME:
        raise AttributeError(f"module 'af_runtime' has no attribute {name!r}")
    return getattr(import_module(f"af_runtime.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    """Return the public names."""
    return sorted(__all__)
