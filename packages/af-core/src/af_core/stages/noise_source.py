"""Noise source: standard normal numbers for a given stream, block and rung."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from torch import Tensor


@runtime_checkable
class NoiseSource(Protocol):
    """A pure function: what is drawn depends on seed, block and rung and on nothing else."""

    def draw(self, seeds: Sequence[int], block: int, rung: int, shape: tuple[int, ...]) -> Tensor:
        """Return float32 ``[b, *shape]``, one stream per seed.

        ``block`` counts from 0; ``rung`` is the level the noise lifts the block to: the top one
        when the block is admitted, a lower one each time it is re-noised.
        """
        ...
