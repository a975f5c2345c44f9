"""A noise schedule: a straight path between clean and noise, with levels spaced by a cosine."""

import math

import torch
from torch import Tensor


class CosineSchedule:
    """sigma_k = (1 - cos(pi/2 * (k + 1) / n)) ** power for rungs k = 0 .. n - 1."""

    def __init__(self, power: float = 1.0, prediction: str = "x0") -> None:
        self.power = power
        self.prediction = prediction

    def ladder(self, num_rungs: int) -> Tensor:
        """Return float32 levels from rung 0 (cleanest) to the top (1.0)."""
        steps = torch.arange(1, num_rungs + 1, dtype=torch.float64) / num_rungs
        levels = (1 - torch.cos(math.pi / 2 * steps)) ** self.power
        levels[-1] = 1.0
        return levels.float()

    def timesteps(self, sigmas: Tensor) -> Tensor:
        """Return what the network is told: float32 in [0, 1000]."""
        return 1000 * sigmas.float()

    def add_noise(self, clean: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
        """Return (1 - sigma) clean + sigma noise."""
        return (1 - sigma) * clean + sigma * noise

    def to_clean(self, prediction: Tensor, noisy: Tensor, sigma: Tensor) -> Tensor:
        """Return the clean estimate."""
        return prediction if self.prediction == "x0" else noisy - sigma * prediction
