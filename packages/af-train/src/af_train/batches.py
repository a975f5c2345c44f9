"""A training batch as one value, and where batches come from."""

from collections.abc import Sequence
from typing import Protocol

import attrs
import torch
from torch import Tensor


@attrs.frozen(eq=False)
class Batch:
    """Conditions of some clips, and the clips themselves where an objective needs them.

    A clip is ``f`` latent frames after the portrait, whole blocks; frame 0 of a stream is the
    portrait and is not among them.
    """

    portrait: Tensor
    """Latents ``[b, 1, c, h, w]``."""
    rows: Tensor
    """Audio features of the clip, ``[b, 4 f, d]``."""
    seeds: tuple[int, ...]
    """One seed for all that is drawn for each sample."""
    clip: Tensor | None = None
    """Clean latents ``[b, f, c, h, w]``."""
    text: Tensor | None = None
    """Prompt embeddings ``[b or 1, token, d]``, for networks that take text."""
    states: Tensor | None = None
    """A teacher's trajectory at the rungs of the ladder, cleanest last: ``[b, s, f, c, h, w]``."""
    told: Tensor | None = None
    """Numbers that decided each frame of the clip, ``[b, f, n]``: noise that is added to it says
    them (``coupling``). None: noise is independent."""
    weights: Tensor | None = None
    """How much each element of a clip counts where errors are averaged, ``[c or 1, h, w]`` with
    mean 1; None lets all count alike."""

    def __len__(self) -> int:
        return len(self.portrait)

    @property
    def num_frames(self) -> int:
        """Latent frames of a clip."""
        return self.rows.shape[1] // 4

    def to(self, device: torch.device | str) -> "Batch":
        """Return the batch on a device."""
        moved = {
            name: value.to(device) if isinstance(value, Tensor) else value
            for name, value in attrs.asdict(self, recurse=False).items()
        }
        return attrs.evolve(self, **moved)


class Source(Protocol):
    """Where batches come from: a world that is drawn on the fly, files, a store."""

    def draw(self, seeds: Sequence[int]) -> Batch:
        """Return one sample per seed; the same seed gives the same sample."""
        ...


@attrs.frozen(eq=False)
class Weighted:
    """A ``Source`` whose clips count more in some places, such as at the mouth.

    What minimises an error does not depend on these weights; what a small network spends its
    capacity on does.
    """

    source: Source
    weights: Tensor
    """``[c or 1, h, w]``; scaled to a mean of 1."""

    def draw(self, seeds: Sequence[int]) -> Batch:
        """Return what the source returns, with weights."""
        return attrs.evolve(self.source.draw(seeds), weights=self.weights / self.weights.mean())
