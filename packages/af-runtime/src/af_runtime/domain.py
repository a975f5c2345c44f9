"""Is a portrait of the kind a model was trained on, or would it be mangled?

The embedded model knows flat drawings only. In a drawing most pixels have exactly the colour of
their neighbours; in a photo hardly any do, because of texture, shading and sensor noise. This is
measured on the picture alone, without the model, in a millisecond.
"""

import attrs
from torch import Tensor

MIN_FLAT_SHARE = 0.27
"""Portraits with a smaller `flat_share` are not what a model of flat drawings knows.

Measured at 256x256 on 24 drawings of the training world and on photos: drawings as rendered
0.75 to 0.84, resized 0.64 and more, as JPEG of quality 75 0.38 and more; photos 0.00 to 0.15,
blurred beyond recognition up to 0.34.
"""

PHOTO_PRESET = "avatarforcing-1.3b"
"""The preset that was trained on films of people."""


@attrs.frozen
class Domain:
    """What a model was trained on, for presets that know only part of the world."""

    kind: str = "flat drawings"
    min_flat_share: float = MIN_FLAT_SHARE
    instead: str = PHOTO_PRESET
    """The preset for everything else."""


DOMAINS = {"toon": Domain(), "toon-causal": Domain()}
"""Presets with a limited world, by name."""


def flat_share(portrait: Tensor) -> float:
    """Return the share of pixels, 0 to 1, of exactly the colour to their left and above them.

    ``portrait`` is uint8 RGB ``[H, W, 3]``.
    """
    here = portrait[1:, 1:]
    flat = (here == portrait[1:, :-1]) & (here == portrait[:-1, 1:])
    return flat.all(-1).float().mean().item()


def domain_warning(portrait: Tensor, preset: str) -> str | None:
    """Return what to tell the user if a preset was not trained on such a portrait, else None."""
    domain = DOMAINS.get(preset)
    if domain is None:
        return None
    share = flat_share(portrait)
    if share >= domain.min_flat_share:
        return None
    return (
        f"This portrait does not look like the {domain.kind} that the preset {preset!r} was trained"
        f" on ({share:.0%} of it is flat colour, drawings have over {domain.min_flat_share:.0%})"
        ": the face will probably be distorted. Photos need a preset that was trained on films of "
        f"people, such as {domain.instead}; here, try a shipped portrait."
    )
