"""Distribution matching in formulas: the generator's gradient and the critic's loss (DMD).

With x_hat = (x_t + sigma^2 score) / (1 - sigma), the difference of two clean estimates is
sigma^2 / (1 - sigma) times the difference of scores: the gradient below descends a KL divergence.
"""

import torch
from torch import Tensor


def guided(unconditional: Tensor, conditional: Tensor, guidance_weight: float) -> Tensor:
    """Return u + w (c - u): w = 1 is the conditional estimate itself, w = 0 the unconditional one.

    Some code has c + g (c - u) instead, which is w = 1 + g.
    """
    return unconditional + guidance_weight * (conditional - unconditional)


def matching_gradient(
    clip: Tensor, clean_critic: Tensor, clean_teacher: Tensor, *, normalise: bool = True
) -> Tensor:
    """Return g = (x0_critic - x0_teacher) / mean |y - x0_teacher|, one mean per sample.

    All are ``[b, f, c, h, w]``; ``clip`` is y, what the student made. Where y is what the teacher
    says, 0 / 0 counts as 0.
    """
    g = clean_critic - clean_teacher
    if normalise:
        g = g / (clip - clean_teacher).abs().flatten(1).mean(1).view(-1, *[1] * (g.dim() - 1))
    return torch.nan_to_num(g, nan=0.0, posinf=0.0, neginf=0.0)


def gradient_field(gradient: Tensor, frames: Tensor) -> Tensor:
    """Return dL/dy of the surrogate loss: g / number of elements, over the chosen ``frames [f]``.

    The surrogate is L = 1/2 mean (y - stop(y - g))^2, whose value says nothing about progress.
    """
    chosen = frames.to(gradient)[None, :, None, None, None]
    numel = chosen.expand_as(gradient).sum()
    return gradient * chosen / numel


def surrogate(clip: Tensor, gradient: Tensor, frames: Tensor) -> Tensor:
    """Return L = 1/2 mean (y - stop(y - g))^2 over the chosen ``frames [f]``, in float64."""
    y, g = clip[:, frames].double(), gradient[:, frames].double()
    return 0.5 * (y - (y - g).detach()).square().mean()


def flow_loss(velocity: Tensor, clean: Tensor, noise: Tensor) -> Tensor:
    """Return mean (v - (eps - x_0))^2, on the raw velocity: of the critic, and of every teacher."""
    return (velocity - (noise - clean)).square().mean()
