"""Who is drawn: colours, proportions, hair, accessories. Thousands of people from seeds."""

import random

import attrs
import torch
from torch import Tensor

_SKIN = "FFE0CC F9CFB2 F2BE98 E3A579 C98A5E A86B43 86512F 643A22".split()
_HAIR = (
    "1E1B1E 33251F 5A3622 8A5431 C88A45 E8C06A A63A24 6B6B76 D9D6D2 3A3D6B 8C4A8C 2E6E6A".split()
)
_SHIRT = "3D6BC4 E4572E 2A9D8F F2B632 7A4FBF E05A8A 36454F F4F1EA 4CAF6D 1F7A8C".split()
_BACKGROUND = "BFE3F2 FCE2C4 D6E8C6 E6D6F5 F9D5DC C9D3E8 FFF0B8 CDEBE1 3E5C76 5B4B8A".split()
_IRIS = "4A2F1B 2F6FA8 3E8E5A 6B4A2B 7A8B99 1F1F2B".split()
_LIPS = "D9625E C2474B E07A72 B5525C A8413F".split()

SHORT, BOB, LONG, BALD, BUN, AFRO = range(6)
_HAIR_STYLES = (SHORT, SHORT, SHORT, BOB, BOB, LONG, LONG, LONG, BALD, BUN, BUN, AFRO)


@attrs.frozen
class Identity:
    """``n`` people. Colours are float ``[n, 3]`` in 0..1, everything else float ``[n]``.

    Lengths are in units of half the image's height at the head's distance.
    """

    skin: Tensor
    hair: Tensor
    shirt: Tensor
    background: Tensor
    iris: Tensor
    lips: Tensor
    face_width: Tensor
    face_height: Tensor
    jaw: Tensor
    eye_size: Tensor
    eye_distance: Tensor
    lash: Tensor
    brow_size: Tensor
    brow_tilt: Tensor
    nose: Tensor
    mouth_width: Tensor
    lip_size: Tensor
    ear: Tensor
    hair_style: Tensor
    hair_volume: Tensor
    fringe: Tensor
    parting: Tensor
    fringe_curve: Tensor
    beard: Tensor
    moustache: Tensor
    glasses: Tensor
    glasses_tone: Tensor
    earrings: Tensor
    blush: Tensor
    collar: Tensor

    def repeat(self, times: int) -> "Identity":
        """Return each person ``times`` times in a row."""
        return Identity(*(v.repeat_interleave(times, 0) for v in self.values()))

    def to(self, device: torch.device | str) -> "Identity":
        """Return the same people on another device."""
        return Identity(*(v.to(device) for v in self.values()))

    def values(self) -> tuple[Tensor, ...]:
        """Return every field, in order."""
        return tuple(getattr(self, field.name) for field in attrs.fields(Identity))


def stack(people: list[Identity]) -> Identity:
    """Return one batch of people."""
    return Identity(
        *(torch.cat(values) for values in zip(*(p.values() for p in people), strict=True))
    )


def sample_identity(rng: random.Random) -> Identity:
    """Return one random person (``n`` = 1)."""
    skin = _jitter(_colour(rng.choice(_SKIN)), 0.025, rng)
    male = rng.random() < 0.5
    lips = 0.45 * skin + 0.55 * _colour(rng.choice(_LIPS))
    numbers = {
        "face_width": rng.uniform(0.40, 0.48),
        "face_height": rng.uniform(0.47, 0.54),
        "jaw": rng.uniform(0.10, 0.34),
        "eye_size": rng.uniform(0.075, 0.10),
        "eye_distance": rng.uniform(0.165, 0.205),
        "lash": rng.uniform(0.012, 0.022),
        "brow_size": rng.uniform(0.014, 0.028),
        "brow_tilt": rng.uniform(-0.12, 0.08),
        "nose": rng.uniform(0.035, 0.06),
        "mouth_width": rng.uniform(0.17, 0.215),
        "lip_size": rng.uniform(0.018, 0.034),
        "ear": rng.uniform(0.07, 0.10),
        "hair_style": float(rng.choice(_HAIR_STYLES)),
        "hair_volume": rng.uniform(0.05, 0.11),
        "fringe": rng.uniform(-0.34, -0.18),
        "parting": rng.uniform(-0.35, 0.35),
        "fringe_curve": rng.uniform(-0.5, 0.9),
        "beard": float(male and rng.random() < 0.28),
        "moustache": float(male and rng.random() < 0.15),
        "glasses": float(rng.random() < 0.25),
        "glasses_tone": rng.uniform(0.05, 0.3),
        "earrings": float(not male and rng.random() < 0.4),
        "blush": rng.uniform(0.0, 0.35),
        "collar": float(rng.random() < 0.5),
    }
    colours = {
        "skin": skin,
        "hair": _jitter(_colour(rng.choice(_HAIR)), 0.04, rng),
        "shirt": _jitter(_colour(rng.choice(_SHIRT)), 0.04, rng),
        "background": _jitter(_colour(rng.choice(_BACKGROUND)), 0.04, rng),
        "iris": _jitter(_colour(rng.choice(_IRIS)), 0.03, rng),
        "lips": lips.clamp(0, 1),
    }
    return Identity(
        **{name: value[None] for name, value in colours.items()},
        **{name: torch.tensor([value]) for name, value in numbers.items()},
    )


def _colour(code: str) -> Tensor:
    return torch.tensor([int(code[i : i + 2], 16) / 255 for i in (0, 2, 4)])


def _jitter(colour: Tensor, amount: float, rng: random.Random) -> Tensor:
    shift = torch.tensor([rng.uniform(-amount, amount) for _ in range(3)])
    return (colour + shift).clamp(0, 1)
