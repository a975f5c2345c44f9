"""Rectified flow: x_sigma = (1 - sigma) x_0 + sigma eps, with a shifted time axis (spec section 3).

The published ladder is reached by *warping*: step s stands for entry 1000 - s of the shifted table,
so 1000, 800, 400, 200 mean timesteps 1000, 952.38, 769.23, 555.56.
"""

import itertools

import attrs
import torch
from torch import Tensor

from af_core.errors import ConfigError
from af_core.schedules.config import RectifiedFlowConfig as RectifiedFlowConfig

NUM_TIMESTEPS = 1000
"""Entries of the training table."""


@attrs.frozen(eq=False)
class RectifiedFlow:
    """The noise schedule of AvatarForcing, and of any network trained on straight paths."""

    config: RectifiedFlowConfig = attrs.field(factory=RectifiedFlowConfig)
    sigmas: Tensor = attrs.field(init=False)
    """Float32 table of the levels, noisiest first."""
    table: Tensor = attrs.field(init=False)
    """Float32 table of the timesteps, 1000 * sigma."""

    def __attrs_post_init__(self) -> None:
        _check(self.config)
        base = torch.linspace(1.0, 0.0, NUM_TIMESTEPS + 1)[:-1]
        shift = self.config.shift
        sigmas = shift * base / (1 + (shift - 1) * base)
        object.__setattr__(self, "sigmas", sigmas)
        object.__setattr__(self, "table", sigmas * NUM_TIMESTEPS)

    def ladder(self, num_rungs: int) -> Tensor:
        """Return float32 levels ``[num_rungs]`` from rung 0 (cleanest) to the top (1.0)."""
        levels = self.config.levels
        if levels is not None:
            if len(levels) != num_rungs:
                raise ConfigError(
                    f"The ladder has {len(levels)} levels, {list(levels)}, but L * N = "
                    f"{num_rungs} are needed; give {num_rungs} levels, or change L or N."
                )
            return torch.tensor(levels, dtype=torch.float32).flip(0)
        steps = self.config.steps
        if len(steps) != num_rungs:
            steps = [NUM_TIMESTEPS * (num_rungs - i) // num_rungs for i in range(num_rungs)]
        if self.config.warp:
            return self.sigmas[[NUM_TIMESTEPS - step for step in steps]].flip(0)
        return self.sigma_at(torch.tensor(steps, dtype=torch.float32)).flip(0)

    def timesteps(self, sigmas: Tensor) -> Tensor:
        """Return what the network is told: float32, 1000 * sigma."""
        return sigmas.float() * NUM_TIMESTEPS

    def sigma_at(self, timesteps: Tensor) -> Tensor:
        """Return the level of the nearest timestep of the table."""
        table = self.table.to(timesteps.device)
        nearest = (table - timesteps.float()[..., None]).abs().argmin(-1)
        return self.sigmas.to(timesteps.device)[nearest]

    def add_noise(self, clean: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
        """Return (1 - sigma) x_0 + sigma eps, computed in float32, in the type of ``clean``."""
        sigma = sigma.float()
        return ((1 - sigma) * clean + sigma * noise).to(clean.dtype)

    def to_clean(self, prediction: Tensor, noisy: Tensor, sigma: Tensor) -> Tensor:
        """Return x_0 = x_sigma - sigma v, computed in float64; an x0-prediction is x_0."""
        if self.config.prediction == "x0":
            return prediction
        return (noisy.double() - sigma.double() * prediction.double()).to(noisy.dtype)


def _check(config: RectifiedFlowConfig) -> None:
    if config.shift <= 0:
        raise ConfigError(f"shift={config.shift:g} must be above 0; 1 leaves the time axis as is.")
    _check_falling("steps", config.steps, NUM_TIMESTEPS)
    if config.levels is not None:
        _check_falling("levels", config.levels, 1)


def _check_falling(name: str, values: tuple[float, ...], top: int) -> None:
    falls = all(a > b for a, b in itertools.pairwise(values))
    if not values or values[0] != top or values[-1] <= 0 or not falls:
        raise ConfigError(f"{name}={list(values)} must begin at {top}, fall, and end above 0.")
