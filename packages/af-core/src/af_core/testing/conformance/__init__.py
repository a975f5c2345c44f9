"""Conformance checks: what every stage of a kind, and every avatar, must satisfy.

    from af_core.testing import conformance
    conformance.run("decoder", MyDecoder, latent=(16, 32, 32))

Each check takes a function that makes a fresh stage, so that it can compare two of them, and
raises ``AssertionError`` with what was seen. ``checks(kind)`` returns them by name.
"""

from collections.abc import Callable
from typing import Any

from af_core.problems import did_you_mean
from af_core.testing.conformance import (
    anchor_caches,
    audio_encoders,
    avatars,
    decoders,
    denoisers,
    encoders_once,
    noise_schedules,
    own_nodes,
    window_schedulers,
)

Check = Callable[..., None]

_CHECKS: dict[str, tuple[Check, ...]] = {
    "audio_encoder": audio_encoders.CHECKS,
    "image_encoder": encoders_once.IMAGE_CHECKS,
    "text_encoder": encoders_once.TEXT_CHECKS,
    "noise_schedule": noise_schedules.CHECKS,
    "window_scheduler": window_schedulers.CHECKS,
    "anchor_cache": anchor_caches.CHECKS,
    "denoiser": denoisers.CHECKS,
    "decoder": decoders.CHECKS,
    "node": own_nodes.CHECKS,
    "avatar": avatars.CHECKS,
}


def checks(kind: str) -> dict[str, Check]:
    """Return the checks of a stage kind by name."""
    if kind not in _CHECKS:
        close = did_you_mean(kind, _CHECKS)
        hint = f" Did you mean {close!r}?" if close else ""
        raise ValueError(f"There are no checks for {kind!r}.{hint} Kinds: {', '.join(_CHECKS)}.")
    return {check.__name__: check for check in _CHECKS[kind]}


def kinds() -> list[str]:
    """Return the kinds that have checks."""
    return list(_CHECKS)


def run(kind: str, make: Callable[[], Any], **options: Any) -> None:
    """Run every check of a kind; ``make`` returns a fresh stage."""
    for check in checks(kind).values():
        check(make, **options)
