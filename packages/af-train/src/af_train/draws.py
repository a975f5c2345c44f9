"""Randomness by sample: what is drawn depends on seed, step and number of a sample, nothing else.

So a batch may be split over ranks and micro-batches in any way and gives the same gradient. What
all ranks must agree on, such as which window carries gradients, is drawn from the step alone.
"""

import random
from collections.abc import Sequence
from hashlib import blake2b

import torch
from torch import Tensor


def mixed(*words: object) -> int:
    """Return a seed in [0, 2^63) that depends on every word."""
    text = "/".join(map(str, words)).encode()
    return int.from_bytes(blake2b(text, digest_size=8).digest(), "little") >> 1


def sample_seeds(seed: int, step: int, turn: str, numbers: range) -> tuple[int, ...]:
    """Return one seed for each sample of a step; ``numbers`` counts over all ranks."""
    return tuple(mixed(seed, step, turn, number) for number in numbers)


def shared(seed: int, step: int, turn: str) -> random.Random:
    """Return the source of choices that all ranks make alike."""
    return random.Random(mixed(seed, step, turn))


def normal(seeds: Sequence[int], purpose: str, like: Tensor) -> Tensor:
    """Draw standard normal numbers in the shape, type and place of ``like [b, ...]``."""
    drawn = [torch.randn(like.shape[1:], generator=_rng(seed, purpose)) for seed in seeds]
    return torch.stack(drawn).to(like)


def uniform(seeds: Sequence[int], purpose: str, *shape: int) -> Tensor:
    """Draw float32 ``[b, *shape]`` from [0, 1)."""
    return torch.stack([torch.rand(shape, generator=_rng(seed, purpose)) for seed in seeds])


def integers(seeds: Sequence[int], purpose: str, below: int, *shape: int) -> Tensor:
    """Draw int64 ``[b, *shape]`` from 0 .. below - 1."""
    drawn = [torch.randint(below, shape, generator=_rng(seed, purpose)) for seed in seeds]
    return torch.stack(drawn)


def _rng(seed: int, purpose: str) -> torch.Generator:
    return torch.Generator().manual_seed(mixed(seed, purpose))
