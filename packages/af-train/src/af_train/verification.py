"""Does an exported file stream as the trained network does? A second of video by both, compared."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import torch
from af_core.errors import AvatarForcingError
from af_core.geometry import AUDIO_HZ
from af_core.graph import open_pipeline, parse_overrides
from af_core.pipeline import Avatar, load
from torch import Tensor

_PER_LEVEL = 0.1
"""Grey levels by which half precision may differ on average."""


class VerificationError(AvatarForcingError):
    """An exported file does not stream as the network does that was trained."""


class Verified(msgspec.Struct, frozen=True):
    """How far the video of a file is from that of the trained network."""

    frames: int
    mean_difference: float
    """Grey levels of 255."""
    largest_difference: int
    """Grey levels of 255, of any pixel."""


def verify(
    path: Path, live: Mapping[str, Tensor], preset: str, settings: list[str], *, exact: bool
) -> Verified:
    """Stream a second with a file and with the weights it was made of; compare every pixel.

    Raises ``VerificationError`` if they differ by more than half precision can explain, or at all
    if the file is ``exact``.
    """
    chosen = parse_overrides(settings) | {"denoiser.weights": str(path.resolve())}
    decoder = open_pipeline(preset, chosen).stages["decoder"].config
    for option in ("still", "soft_borders"):  # which would hide small differences
        if hasattr(decoder, option):
            chosen[f"decoder.{option}"] = 0.0
    avatar = load(preset, chosen)
    exported = _second(avatar)
    denoising: Any = avatar.runners["denoiser"]
    network = denoising.streamer.denoiser
    network.load_state_dict(live)
    network.pack()
    trained = _second(avatar)
    apart = (exported.float() - trained.float()).abs()
    made = Verified(exported.shape[1], float(f"{apart.mean():.4g}"), int(apart.max()))
    if exported.shape[1] == 0 or made.mean_difference > (0 if exact else _PER_LEVEL):
        raise VerificationError(
            f"{path} does not stream as the trained network does: over {made.frames} frames the "
            f"pixels differ by {made.mean_difference} grey levels on average, "
            f"{made.largest_difference} at most. Export again without --half, and report it if "
            "that does not help."
        )
    return made


def _second(avatar: Avatar) -> Tensor:
    """Return a second of video, ``uint8 [1, 25, H, W, 3]``: a made-up face and a made-up voice."""
    height, width = avatar.info.height, avatar.info.width
    y, x = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
    face = ((x - 0.5) ** 2 / 0.08 + (y - 0.5) ** 2 / 0.12 < 1).float()
    portrait = torch.stack([0.3 + 0.5 * face, 0.35 + 0.3 * face * y, 0.5 - 0.2 * face], -1)
    time = torch.arange(AUDIO_HZ) / AUDIO_HZ
    voice = torch.sin(2 * torch.pi * 140 * time) * torch.sin(2 * torch.pi * 4 * time).clamp(min=0)
    frames = avatar.stream((255 * portrait).to(torch.uint8), voice.mul(0.4).split(4000))
    return torch.cat(list(frames), 1)
