"""Muon for networks of convolutions and matrices: momentum, orthogonalised (Jordan et al., 2024).

A deep network without norms is badly conditioned, and Adam crawls through its first thousands of
steps; updates with all singular values alike do not. Vectors take signed momentum steps.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

_QUINTIC = (3.4445, -4.7750, 2.0315)
"""Newton-Schulz coefficients that take every singular value in (0, 1] near 1 in five steps."""
_VECTOR_RATIO = 0.02


def orthogonalise(matrix: Tensor, steps: int = 5) -> Tensor:
    """Return about ``U V^T`` for ``matrix = U S V^T``, by a quintic Newton-Schulz iteration."""
    a, b, c = _QUINTIC
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / (x.norm() + 1e-7)
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if tall else x


class Muon(torch.optim.Optimizer):
    """Orthogonalised momentum for weights of two or more dimensions, signed for the others."""

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        lr: float = 0.02,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        """Take one step along the gradients."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._move(parameter, parameter.grad, group)

    def _move(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        state["momentum"].lerp_(gradient, 1 - group["momentum"])
        ahead = gradient.lerp(state["momentum"], group["momentum"])
        if parameter.ndim >= 2 and parameter.shape[0] > 1:
            flat = ahead.flatten(1)
            update = orthogonalise(flat) * max(1.0, flat.shape[0] / flat.shape[1]) ** 0.5
            update = update.view_as(parameter)
        else:
            update = ahead.sign() * _VECTOR_RATIO
        parameter.mul_(1 - group["lr"] * group["weight_decay"]).add_(update, alpha=-group["lr"])
