"""Distribution matching in formulas: the generator's gradient and the critic's loss (DMD).

With x_hat = (x_t + sigma^2 score) / (1 - sigma), the difference of two clean estimates is
sigma^2 / (1 - sigma) times the difference of scores: the gradient below descends a KL divergence.
"""

import torch
from torch import Tensor

CLEAN_FLOOR = 0.2
"""Square of the level below which errors of clean estimates count alike."""


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


def flow_loss(
    velocity: Tensor, clean: Tensor, noise: Tensor, weights: Tensor | float = 1.0
) -> Tensor:
    """Return mean w (v - (eps - x_0))^2: the loss of the critic, and of every teacher.

    ``weights`` broadcast against ``[b, f, c, h, w]``.
    """
    return ((velocity - (noise - clean)).square() * weights).mean()


def level_weights(sigma: Tensor, errors_of: str) -> Tensor:
    """Return how much a squared error of a velocity counts at each level.

    Always 1 for ``velocity``. For ``clean`` s^2 / (s^2 + .2), which is (x_0 error)^2 / (s^2 + .2):
    near data, where a velocity is the difference of two close pictures, it does not explode.
    """
    return sigma**2 / (sigma**2 + CLEAN_FLOOR) if errors_of == "clean" else torch.ones_like(sigma)
