"""Noise schedule: how noisy each rung of the ladder is, and the way between clean and noisy."""

from typing import Protocol, runtime_checkable

from torch import Tensor

from af_core.tensors import Sigmas


@runtime_checkable
class NoiseSchedule(Protocol):
    """The line from clean (sigma 0) to pure noise (sigma 1), cut into rungs."""

    def ladder(self, num_rungs: int) -> Sigmas:
        """Return float32 noise levels from rung 0 (one step from clean) to the top (1.0)."""
        ...

    def timesteps(self, sigmas: Tensor) -> Tensor:
        """Return the float32 numbers in [0, 1000] by which the network knows these levels."""
        ...

    def add_noise(self, clean: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
        """Mix clean latents with noise; ``sigma`` broadcasts against them."""
        ...

    def to_clean(self, prediction: Tensor, noisy: Tensor, sigma: Tensor) -> Tensor:
        """Turn what the network predicts into the clean estimate."""
        ...
