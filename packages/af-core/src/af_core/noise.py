"""Noise by counting: the numbers of (seed, block, rung) are computed, not drawn in turn.

They depend on nothing else, so a stream is the same however it is batched, cut, restarted or
moved between processes.
"""

import math
from collections.abc import Mapping, Sequence

import attrs
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from af_core.errors import ConfigError

_WORDS = (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9)
_MASK = (1 << 64) - 1


@attrs.frozen
class CounterNoise:
    """Philox bits keyed by (seed, block, rung), turned into normal numbers by Box and Muller."""

    def draw(self, seeds: Sequence[int], block: int, rung: int, shape: tuple[int, ...]) -> Tensor:
        """Return standard normal float32 ``[b, *shape]``, one stream per seed."""
        return torch.stack([_normal(seed, block, rung, shape) for seed in seeds])


@attrs.frozen(eq=False)
class RecordedNoise:
    """Plays recorded noise back, for comparisons with another implementation."""

    recorded: Mapping[tuple[int, int], Tensor]
    """Noise ``[b, *shape]`` of each (block, rung)."""

    def draw(self, seeds: Sequence[int], block: int, rung: int, shape: tuple[int, ...]) -> Tensor:
        """Return what was recorded; seeds do not matter."""
        found = self.recorded.get((block, rung))
        if found is None or found.shape[1:] != shape:
            seen = "nothing" if found is None else list(found.shape[1:])
            raise ConfigError(
                f"The recording holds {seen} for block {block}, rung {rung}; {list(shape)} "
                "is needed."
            )
        return found


def _normal(seed: int, block: int, rung: int, shape: tuple[int, ...]) -> Tensor:
    count = math.prod(shape)
    half = (count + 1) // 2
    key = _words(seed ^ _WORDS[0], seed >> 64 ^ _WORDS[1])
    philox = np.random.Philox(key=key, counter=_words(0, block, rung, 0))
    bits = philox.random_raw(half)
    radius = ((bits >> np.uint64(40)).astype(np.float32) + np.float32(0.5)) * np.float32(2**-24)
    angle = (bits & np.uint64(0xFFFFFF)).astype(np.float32) * np.float32(2 * math.pi * 2**-24)
    radius = np.sqrt(np.float32(-2) * np.log(radius))
    normal = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])[:count]
    return torch.from_numpy(normal).view(shape)


def _words(*numbers: int) -> NDArray[np.uint64]:
    """Return the low 64 bits of each number; numpy makes floats of a list of large and small."""
    return np.array([number & _MASK for number in numbers], np.uint64)
