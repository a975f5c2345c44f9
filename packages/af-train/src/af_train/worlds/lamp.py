"""The smallest world that can be distilled: a wall, a lamp that follows the voice, a mood.

A latent frame has three channels and 2 x 2 cells, one token. The wall's colour is the identity and
stays as in the portrait; the lamp brightens with the voice; the mood is one number a clip that
neither portrait nor voice foretells. Everything is Gaussian or uniform, so what a student should
make is known without a reader: ``measure`` compares with it.
"""

from collections.abc import Sequence

import attrs
import torch
from torch import Tensor

from af_train import draws
from af_train.batches import Batch

CHANNELS, SIDE, AUDIO_DIM = 3, 2, 2
MOOD_STD = 0.5
_LAMP = ((1.0, 1.0), (-1.0, -1.0))
_MOOD = ((1.0, -1.0), (1.0, -1.0))


@attrs.frozen
class LampScores:
    """How far streamed clips are from what they should be."""

    offset: float
    """Mean difference from the portrait's colour, which should be 0; largest of the channels."""
    identity: float
    """Root mean square of that difference, clip by clip."""
    sync: float
    """Slope of the lamp against the voice, which should be 1."""
    mood: float
    """Standard deviation of the mood over clips, which should be ``MOOD_STD``."""


@attrs.frozen
class LampWorld:
    """A ``Source`` of clips of ``num_frames`` latent frames; the same seed, the same clip."""

    num_frames: int = 6

    def draw(self, seeds: Sequence[int]) -> Batch:
        """Return one clip per seed."""
        voice = smooth(draws.normal(seeds, "voice", torch.empty(len(seeds), self.num_frames + 4)))
        colour = draws.uniform(seeds, "colour", CHANNELS) - 0.5
        mood = MOOD_STD * draws.normal(seeds, "mood", torch.empty(len(seeds), 1))
        wall = colour[:, None, :, None, None].expand(-1, 1, -1, SIDE, SIDE)
        lit = voice[:, :, None, None, None] * torch.tensor(_LAMP)
        felt = mood[:, :, None, None, None] * torch.tensor(_MOOD)
        rows = torch.stack([voice, torch.ones_like(voice)], -1).repeat_interleave(4, 1)
        return Batch(wall.contiguous(), rows, tuple(seeds), clip=wall + 0.5 * lit + felt)


def smooth(noise: Tensor) -> Tensor:
    """Average five neighbours, to a standard deviation of 1: ``[b, n + 4]`` to ``[b, n]``."""
    return noise.unfold(1, 5, 1).mean(-1) * 5**0.5


def measure(clips: Tensor, batch: Batch) -> LampScores:
    """Compare streamed ``clips [b, f, c, h, w]`` with the conditions they were made from."""
    colour = clips.mean((3, 4)) - batch.portrait.mean((3, 4))
    lamp = (clips * torch.tensor(_LAMP)).mean((2, 3, 4)) / 0.5
    mood = (clips * torch.tensor(_MOOD)).mean((2, 3, 4))
    voice = batch.rows[:, ::4, 0]
    return LampScores(
        offset=colour.mean((0, 1)).abs().max().item(),
        identity=colour.square().mean().sqrt().item(),
        sync=((lamp * voice).mean() / voice.square().mean()).item(),
        mood=mood.mean(1).std().item(),
    )
