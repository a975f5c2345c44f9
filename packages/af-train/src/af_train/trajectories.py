"""A teacher's trajectory: Euler's method on the shifted grid, states kept where asked.

x <- x + (sigma' - sigma) v(x, sigma), from noise at 1 to exactly 0. Only the student's rungs and
the end are kept; all states of a clip would be ten times as much.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from af_core.anchors.dual_anchor import DualAnchorCache
from torch import Tensor

from af_train.guidance import Guidance
from af_train.masks import bidirectional, over_clean_past
from af_train.networks import Conditions, Trainable, predict_velocity

Velocity = Callable[[Tensor, float], Tensor]
"""v(x, sigma) of all frames ``[b, f, c, h, w]`` at one level."""


def trajectory(
    velocity: Velocity, noise: Tensor, grid: Sequence[float], keep: Sequence[int]
) -> Tensor:
    """Return the states at nodes ``keep`` of the grid, then the end: ``[b, len(keep) + 1, ...]``.

    ``keep`` rises; node 0 is the noise itself.
    """
    x, states, wanted = noise, [], set(keep)
    for i, (sigma, lower) in enumerate(pairwise(grid)):
        if i in wanted:
            states.append(x)
        x = x + (lower - sigma) * velocity(x, sigma)
    return torch.stack([*states, x], dim=1)


def guided_velocity(
    teacher: Trainable, given: Conditions, guidance: Guidance, num_frames: int
) -> Velocity:
    """Return the bidirectional teacher's velocity of a clip, guided."""
    plan = bidirectional(num_frames)

    def velocity(x: Tensor, sigma: float) -> Tensor:
        level = x.new_full(x.shape[:2], sigma)
        return guidance(lambda told: predict_velocity(teacher, x, level, told, plan), given)

    return velocity


def teacher_forced_velocity(
    teacher: Trainable,
    given: Conditions,
    guidance: Guidance,
    truth: Tensor,
    anchors: DualAnchorCache,
    block_latents: int,
) -> Velocity:
    """Return a causal teacher's: each block over the true blocks before it (Causal Forcing, 2a)."""

    def of(block: int, x: Tensor, sigma: float, conditions: Conditions) -> Tensor:
        start, stop = block * block_latents, (block + 1) * block_latents
        frames = torch.cat([truth[:, :start], x[:, start:stop]], dim=1)
        level = x.new_zeros(len(x), stop)
        level[:, start:] = sigma
        heard = Conditions(conditions.portrait, conditions.rows[:, : 4 * stop], conditions.text)
        plan = over_clean_past(anchors, block, 1, block_latents)
        return predict_velocity(teacher, frames, level, heard, plan)

    def velocity(x: Tensor, sigma: float) -> Tensor:
        blocks = range(x.shape[1] // block_latents)

        def ask(told: Conditions) -> Tensor:
            return torch.cat([of(b, x, sigma, told) for b in blocks], dim=1)

        return guidance(ask, given)

    return velocity
