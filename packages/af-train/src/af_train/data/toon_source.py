"""Clips of the toon world as batches: latents from shards, speech through bad microphones."""

from collections.abc import Sequence

import attrs
import torch
from af_audio.mel import MelConvEncoder
from torch import Tensor

from af_train.batches import Batch
from af_train.data.toon_latents import NUM_LATENTS, LatentClips, LatentPool
from af_train.draws import mixed
from af_train.recipes.toon_audio import augment

_NEUTRAL = 0.75
"""Share of portraits that are the neutral one; the others are any frame of the clip."""


@attrs.frozen(eq=False)
class ToonSource:
    """A ``Source`` of runs of ``num_frames`` latents; the same seed, the same run."""

    pool: LatentPool
    ears: MelConvEncoder
    num_frames: int
    coupled: bool = False
    """Whether batches tell the numbers that decided how their people move."""

    def draw(self, seeds: Sequence[int]) -> Batch:
        """Return one run per seed, its speech, and a portrait of who speaks."""
        rngs = [torch.Generator().manual_seed(mixed(seed, "toon")) for seed in seeds]
        clips = self.pool.take([_below(len(self.pool), rng) for rng in rngs])
        starts = [1 + _below(NUM_LATENTS - self.num_frames, rng) for rng in rngs]
        runs = [slice(start, start + self.num_frames) for start in starts]
        rows = self._rows(clips, rngs)
        return Batch(
            portrait=_portraits(clips, rngs),
            rows=torch.stack(
                [r[4 * s.start - 4 : 4 * s.stop - 4] for r, s in zip(rows, runs, strict=True)]
            ),
            seeds=tuple(seeds),
            clip=torch.stack([z[s] for z, s in zip(clips.latents, runs, strict=True)]).float(),
            told=_told(clips, starts, self.num_frames) if self.coupled else None,
        )

    @torch.no_grad()
    def _rows(self, clips: LatentClips, rngs: Sequence[torch.Generator]) -> Tensor:
        """Hear each clip through a microphone of its own; row 0 is that of latent 1."""
        samples = clips.samples.float() / 32768
        heard = [augment(samples[i : i + 1], rng) for i, rng in enumerate(rngs)]
        return self.ears(torch.cat(heard))[:, 1:]


def _told(clips: LatentClips, starts: Sequence[int], num_frames: int) -> Tensor:
    """Return the numbers ``[b, f, 10]`` that decided latents ``start ..`` of each clip."""
    rows = [slice(start - 1, start - 1 + num_frames) for start in starts]
    return torch.stack([d[r] for d, r in zip(clips.drives, rows, strict=True)])


def _portraits(clips: LatentClips, rngs: Sequence[torch.Generator]) -> Tensor:
    chosen = [
        clips.portraits[i]
        if torch.rand((), generator=rng) < _NEUTRAL
        else clips.latents[i, _below(NUM_LATENTS, rng)]
        for i, rng in enumerate(rngs)
    ]
    return torch.stack(chosen)[:, None].float()


def _below(count: int, rng: torch.Generator) -> int:
    return int(torch.randint(count, (), generator=rng))
