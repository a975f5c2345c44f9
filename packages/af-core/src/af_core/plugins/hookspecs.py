"""Every hook a plugin can implement. This page is the contract.

A plugin is a module with ``af_plugin_api = 1`` and functions marked ``@hookimpl``, named by one
entry point in the group ``af_core`` of its distribution. Each hook receives ``register``; call it
once per thing you offer: ``register(name, ConfigClass)``. A config class is a frozen
``msgspec.Struct`` with ``forbid_unknown_fields=True`` whose fields are the options of the stage and
whose ``build(context)`` makes it; import torch inside ``build``, never at the top of the module.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pluggy

PROJECT = "af_core"
"""Name of the plugin manager and of the entry-point group."""

API_VERSION = 1
"""What a plugin states as ``af_plugin_api``; it changes only when old plugins would break."""

Register = Callable[[str, type[Any]], None]
"""``register(name, ConfigClass)``; see ``af_core.plugins.StageConfig``."""

RegisterPreset = Callable[[str, Path | str], None]
"""``register(name, path)`` with the path of a pipeline file (YAML or TOML)."""

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def af_register_audio_encoders(register: Register) -> None:
    """Offer audio encoders: 16 kHz speech in, one feature row per video frame out."""


@hookspec
def af_register_image_encoders(register: Register) -> None:
    """Offer image encoders: the portrait in, its latent out, once per stream."""


@hookspec
def af_register_text_encoders(register: Register) -> None:
    """Offer text encoders: a prompt in, embeddings out, once per stream."""


@hookspec
def af_register_noise_schedules(register: Register) -> None:
    """Offer noise schedules: the ladder, and the way between clean and noisy."""


@hookspec
def af_register_window_schedulers(register: Register) -> None:
    """Offer window schedulers: which blocks are denoised together, and how noisy each is."""


@hookspec
def af_register_anchor_caches(register: Register) -> None:
    """Offer anchor caches: what the denoiser attends to besides its own window."""


@hookspec
def af_register_denoisers(register: Register) -> None:
    """Offer denoising networks: noisy window in, clean estimate of every slot out."""


@hookspec
def af_register_decoders(register: Register) -> None:
    """Offer decoders: clean latents in, frames out."""


@hookspec
def af_register_nodes(register: Register) -> None:
    """Offer nodes of your own for the graph: super-resolution, watermark, recorder."""


@hookspec
def af_register_presets(register: RegisterPreset) -> None:
    """Offer whole pipelines by name, as YAML or TOML files."""


@hookspec
def af_register_objectives(register: Register) -> None:
    """Offer training objectives to af-train."""


@hookspec
def af_register_metrics(register: Register) -> None:
    """Offer quality metrics to af-train."""
