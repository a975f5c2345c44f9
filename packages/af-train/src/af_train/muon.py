"""Muon for networks of convolutions and matrices: momentum, orthogonalised (Jordan et al., 2024).

A deep network without norms is badly conditioned, and Adam crawls through its first thousands of
steps; updates with all singular values alike do not. Vectors, and the layers at the edges, whose
outputs are pixels or latents and must not jitter, take Adam's steps instead.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

_QUINTIC = (3.4445, -4.7750, 2.0315)
"""Newton-Schulz coefficients that take every singular value in (0, 1] near 1 in five steps."""
_ADAM_RATIO = 0.1
_ADAM_BETAS = (0.9, 0.98)


def orthogonalise(matrix: Tensor, steps: int = 5) -> Tensor:
    """Return about ``U V^T`` for ``matrix = U S V^T``, by a quintic Newton-Schulz iteration."""
    a, b, c = _QUINTIC
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = (x / (x.norm() + 1e-7)).bfloat16()
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.T if tall else x).to(matrix.dtype)


class Muon(torch.optim.Optimizer):
    """Orthogonalised momentum for hidden weights, Adam at a tenth of the rate for all others."""

    def __init__(
        self,
        hidden: Iterable[nn.Parameter],
        others: Iterable[nn.Parameter] = (),
        lr: float = 0.02,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
    ) -> None:
        groups = [
            {"params": list(hidden), "orthogonal": True},
            {"params": list(others), "orthogonal": False},
        ]
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay}
        super().__init__([group for group in groups if group["params"]], defaults)

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Take one step along the gradients; returns what ``closure`` returns, if given."""
        with torch.enable_grad():
            loss = None if closure is None else closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                if group["orthogonal"]:
                    self._turn(parameter, parameter.grad, group)
                else:
                    self._adapt(parameter, parameter.grad, group)
        return loss

    def _turn(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        state["momentum"].lerp_(gradient, 1 - group["momentum"])
        flat = gradient.lerp(state["momentum"], group["momentum"]).flatten(1)
        update = orthogonalise(flat) * max(1.0, flat.shape[0] / flat.shape[1]) ** 0.5
        parameter.add_(update.view_as(parameter), alpha=-group["lr"])

    def _adapt(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state["mean"] = torch.zeros_like(parameter)
            state["square"] = torch.zeros_like(parameter)
            state["count"] = torch.zeros(())
        state["count"] += 1
        fast, slow = _ADAM_BETAS
        state["mean"].lerp_(gradient, 1 - fast)
        state["square"].lerp_(gradient.square(), 1 - slow)
        mean = state["mean"] / (1 - fast ** state["count"])
        scale = (state["square"] / (1 - slow ** state["count"])).sqrt() + 1e-8
        parameter.addcdiv_(mean, scale, value=-group["lr"] * _ADAM_RATIO)
