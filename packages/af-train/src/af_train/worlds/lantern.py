"""The lamp world for long streams: a colour that stays, a lamp that foresees, a mood that wanders.

As in ``lamp``, a latent frame has three channels and 2 x 2 cells and is one token. What differs is
what the mechanisms of streaming act on. The lamp answers the voice of its own moment and, weaker,
of the two to come, as lips that prepare the next sound: who cannot hear ahead cannot be right. The
mood moves slowly and is foretold by nothing but its past: who forgets the past jumps. The portrait
shows the colour and no more. Everything is Gaussian or uniform, and known exactly.
"""

from collections.abc import Sequence

import attrs
import torch
from torch import Tensor

from af_train import draws
from af_train.batches import Batch

CHANNELS, SIDE, AUDIO_DIM = 3, 2, 2
LATENTS_PER_S = 6.25
"""A latent frame is four video frames of 25 a second, so a minute is 375."""
AHEAD = (0.8, 0.5, 0.33)
"""Weights of the voice now, next and after next; their squares sum to 1."""
LAMP_STD = 0.5
MOOD_STD = 0.5
MOOD_MEMORY = 0.95
"""Correlation of the mood with itself one latent frame later."""
_LAMP = ((1.0, 1.0), (-1.0, -1.0))
_MOOD = ((1.0, -1.0), (1.0, -1.0))


@attrs.frozen(eq=False)
class Readings:
    """What frames show, without error: the cells are a wall plus two patterns."""

    colour: Tensor
    """The wall, ``[b, f, 3]``."""
    lamp: Tensor
    """``[b, f]``."""
    mood: Tensor
    """``[b, f]``."""


@attrs.frozen
class LanternWorld:
    """A ``Source`` of clips of ``num_frames`` latent frames; the same seed, the same clip."""

    num_frames: int = 12

    def draw(self, seeds: Sequence[int]) -> Batch:
        """Return one clip per seed."""
        like = torch.empty(len(seeds), self.num_frames + len(AHEAD) - 1)
        voice = draws.normal(seeds, "voice", like)
        lamp = LAMP_STD * (voice.unfold(1, len(AHEAD), 1) @ torch.tensor(AHEAD))
        steps = draws.normal(seeds, "mood", torch.empty(len(seeds), self.num_frames))
        colour = draws.uniform(seeds, "colour", CHANNELS) - 0.5
        wall = colour[:, None, :, None, None].expand(-1, 1, -1, SIDE, SIDE)
        heard = voice[:, : self.num_frames]
        rows = torch.stack([heard, torch.ones_like(heard)], -1).repeat_interleave(4, 1)
        clip = wall + _pattern(lamp, _LAMP) + _pattern(wandering(steps), _MOOD)
        return Batch(wall.contiguous(), rows, tuple(seeds), clip=clip)


def wandering(steps: Tensor) -> Tensor:
    """Return the stationary first-order process driven by normal ``steps [b, f]``."""
    fresh = (1 - MOOD_MEMORY**2) ** 0.5
    moods = [steps[:, 0]]
    for step in steps[:, 1:].unbind(1):
        moods.append(MOOD_MEMORY * moods[-1] + fresh * step)
    return MOOD_STD * torch.stack(moods, 1)


def read(frames: Tensor) -> Readings:
    """Read latent frames ``[b, f, 3, 2, 2]``."""
    return Readings(
        frames.mean((3, 4)),
        (frames * torch.tensor(_LAMP)).mean((2, 3, 4)),
        (frames * torch.tensor(_MOOD)).mean((2, 3, 4)),
    )


def paint(frames: Tensor, cell: int = 16) -> Tensor:
    """Return latent frames ``[f, 3, 2, 2]`` as pictures uint8 ``[f, 2 cell, 2 cell, 3]``.

    0 is grey, and a value of 1.5 or more is full brightness.
    """
    shown = (frames / 3 + 0.5).clamp(0, 1).permute(0, 2, 3, 1)
    large = shown.repeat_interleave(cell, 1).repeat_interleave(cell, 2)
    return (large * 255 + 0.5).to(torch.uint8)


def _pattern(track: Tensor, cells: tuple[tuple[float, ...], ...]) -> Tensor:
    return track[:, :, None, None, None] * torch.tensor(cells)
