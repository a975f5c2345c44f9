"""Checks for denoisers; ``latent`` is (c, h, w), ``feature_dim`` the width of an audio row."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from af_core.geometry import TEMPORAL_STRIDE
from af_core.stages.denoiser import Plan, Segment
from af_core.testing.conformance.common import close, keeps_nothing, noise, same
from af_core.testing.conformance.snapshots import carried

Make = Callable[[], Any]
Shape = tuple[int, int, int]

FRAMES = 2
WINDOW = Plan(positions=(0, 1), segments=(Segment(0, FRAMES, sees_from=0),))
"""A pass over two frames that see each other and nothing else."""
KEEPING = Plan(
    positions=(0, 1), segments=(Segment(0, FRAMES, sees_from=0),), saves=((0, 0), (1, 1))
)
"""The same pass, which also writes both frames into memory."""
RECALLING = Plan(
    positions=(0, 1),
    segments=(Segment(0, FRAMES, sees_from=0),),
    stored=((0, -2), (1, -1)),
)
"""A pass that also sees two remembered frames."""


def predicted(denoiser: Any, latent: Shape, feature_dim: int, seeds: tuple[int, ...]) -> Tensor:
    """Return the prediction for one window of one stream per seed."""
    conditions = denoiser.open(_stack(seeds, 1, latent, 100))
    return denoiser(*_window(denoiser, latent, feature_dim, seeds), conditions, WINDOW)


@torch.no_grad()
def predicts_a_latent_for_each_frame(make: Make, *, latent: Shape, feature_dim: int) -> None:
    """The prediction has the shape of the window, and is finite."""
    got = predicted(make(), latent, feature_dim, (1, 2))
    want = (2, FRAMES, *latent)
    assert tuple(got.shape) == want, f"got {list(got.shape)}, not {list(want)}"
    assert bool(torch.isfinite(got).all()), "the prediction holds NaN or infinity"


@torch.no_grad()
def says_the_same_again(make: Make, *, latent: Shape, feature_dim: int) -> None:
    """The same input gives the same prediction: no randomness, nothing remembered."""
    denoiser = make()
    first = predicted(denoiser, latent, feature_dim, (1,))
    predicted(denoiser, latent, feature_dim, (2,))
    same(predicted(denoiser, latent, feature_dim, (1,)), first, "the second prediction")


@torch.no_grad()
def keeps_streams_of_a_batch_apart(make: Make, *, latent: Shape, feature_dim: int) -> None:
    """A stream's prediction does not depend on the others in its batch."""
    denoiser = make()
    alone = predicted(denoiser, latent, feature_dim, (1,))
    both = predicted(denoiser, latent, feature_dim, (1, 2))
    close(both[:1], alone, "a stream in a batch", 1e-3)


@torch.no_grad()
def hears_its_audio(make: Make, *, latent: Shape, feature_dim: int) -> None:
    """Rows of a block become one set of vectors per latent frame; silence has their shape."""
    denoiser = make()
    rows = noise(2, FRAMES * TEMPORAL_STRIDE, feature_dim)
    vectors = denoiser.embed_audio(rows)
    assert vectors.ndim == 4 and tuple(vectors.shape[:2]) == (2, FRAMES), (
        f"audio vectors are {list(vectors.shape)}, not [2, {FRAMES}, i, m]"
    )
    quiet = denoiser.silence(2)
    want = (2, 1, *vectors.shape[2:])
    assert tuple(quiet.shape) == want, f"silence is {list(quiet.shape)}, not {list(want)}"


@torch.no_grad()
def keeps_memories_apart(make: Make, *, latent: Shape, feature_dim: int) -> None:
    """What a pass writes goes into the memory it was given and into no other."""
    denoiser = make()
    conditions = denoiser.open(_stack((1,), 1, latent, 100))
    mine, other = (denoiser.allocate(conditions, FRAMES) for _ in range(2))
    one = _window(denoiser, latent, feature_dim, (1,))
    two = _window(denoiser, latent, feature_dim, (2,))
    denoiser(*one, conditions, KEEPING, mine)
    before = denoiser(*one, conditions, RECALLING, mine)
    denoiser(*two, conditions, KEEPING, other)
    same(denoiser(*one, conditions, RECALLING, mine), before, "a pass after another memory's")


@torch.no_grad()
def goes_on_from_a_snapshot(make: Make, *, latent: Shape, feature_dim: int) -> None:
    """A memory that went through a snapshot is recalled as if nothing had happened."""
    denoiser, portrait = make(), _stack((1,), 1, latent, 100)
    conditions = denoiser.open(portrait)
    memory = denoiser.allocate(conditions, FRAMES)
    one = _window(denoiser, latent, feature_dim, (1,))
    denoiser(*one, conditions, KEEPING, memory)
    there = denoiser(*one, denoiser.open(portrait), RECALLING, carried(denoiser, memory))
    same(there, denoiser(*one, conditions, RECALLING, memory), "a pass over a carried memory")


@torch.no_grad()
def keeps_no_memory_of_ended_streams(make: Make, *, latent: Shape, feature_dim: int) -> None:
    """Streams leave no tensors behind."""
    denoiser = make()
    keeps_nothing(lambda: predicted(denoiser, latent, feature_dim, (1,)), "denoiser")


def _window(
    denoiser: Any, latent: Shape, feature_dim: int, seeds: tuple[int, ...]
) -> tuple[Tensor, Any, Tensor]:
    rows = torch.cat([noise(1, FRAMES * TEMPORAL_STRIDE, feature_dim, seed=s) for s in seeds])
    modulation = denoiser.modulation(torch.tensor([250.0, 1000.0]))
    return _stack(seeds, FRAMES, latent, 0), modulation, denoiser.embed_audio(rows)


def _stack(seeds: tuple[int, ...], frames: int, latent: Shape, offset: int) -> Tensor:
    return torch.cat([noise(1, frames, *latent, seed=seed + offset) for seed in seeds])


CHECKS = (
    predicts_a_latent_for_each_frame,
    says_the_same_again,
    keeps_streams_of_a_batch_apart,
    hears_its_audio,
    keeps_memories_apart,
    goes_on_from_a_snapshot,
    keeps_no_memory_of_ended_streams,
)
