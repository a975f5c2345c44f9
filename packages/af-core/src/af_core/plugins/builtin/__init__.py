"""The stages of af-core itself, registered through the same hooks as anybody's."""

from pathlib import Path

from af_core import presets
from af_core.plugins.builtin.engine import (
    CausalOptions,
    DualAnchorOptions,
    LocalFutureOptions,
    RectifiedFlowOptions,
)
from af_core.plugins.builtin.networks import (
    CausalWanOptions,
    TinyVAEDecoderOptions,
    TinyVAEImageOptions,
)
from af_core.plugins.builtin.prompts import CachedPromptOptions
from af_core.plugins.builtin.wan_vae import WanVAEDecoderOptions, WanVAEImageOptions
from af_core.plugins.hookspecs import API_VERSION, Register, RegisterPreset, hookimpl

af_plugin_api = API_VERSION


@hookimpl
def af_register_image_encoders(register: Register) -> None:
    """Offer the encoders of the tiny autoencoder and of Wan's."""
    register("tiny_vae", TinyVAEImageOptions)
    register("wan_vae", WanVAEImageOptions)


@hookimpl
def af_register_text_encoders(register: Register) -> None:
    """Offer prompts that were encoded before."""
    register("cached_prompt", CachedPromptOptions)


@hookimpl
def af_register_noise_schedules(register: Register) -> None:
    """Offer rectified flow."""
    register("rectified_flow", RectifiedFlowOptions)


@hookimpl
def af_register_window_schedulers(register: Register) -> None:
    """Offer the local future and the causal window."""
    register("local_future", LocalFutureOptions)
    register("causal", CausalOptions)


@hookimpl
def af_register_anchor_caches(register: Register) -> None:
    """Offer the dual anchor."""
    register("dual_anchor", DualAnchorOptions)


@hookimpl
def af_register_denoisers(register: Register) -> None:
    """Offer the causal Wan network."""
    register("causal_wan", CausalWanOptions)


@hookimpl
def af_register_decoders(register: Register) -> None:
    """Offer the decoders of the tiny autoencoder and of Wan's."""
    register("tiny_vae", TinyVAEDecoderOptions)
    register("wan_vae", WanVAEDecoderOptions)


@hookimpl
def af_register_presets(register: RegisterPreset) -> None:
    """Offer every pipeline file in ``af_core/presets``."""
    for file in sorted(Path(presets.__file__).parent.glob("*.yaml")):
        register(file.stem, file)
