"""Noise levels: the shift map, Euler grids, and the law of the levels at which scores are compared.

All levels are sigma in [0, 1] of x_sigma = (1 - sigma) x_0 + sigma eps; u is a level before the
shift. There is one map between them, and no table is looked up.
"""

from collections.abc import Sequence
from typing import TypeVar

from af_core.errors import ConfigError
from torch import Tensor

Number = TypeVar("Number", float, Tensor)

_ON_GRID = 1e-3
"""How far from a node, in steps, a level may lie; float32 ladders are within 1e-5."""
_MOST_STEPS = 200
NUM_TIMESTEPS = 1000


class GridError(ConfigError):
    """A level of the ladder is no node of the teacher's grid."""


def shifted(u: Number, shift: float) -> Number:
    """Return S_k(u) = k u / (1 + (k - 1) u): the level that stands at ``u`` of the time axis."""
    return shift * u / (1 + (shift - 1) * u)


def unshifted(sigma: Number, shift: float) -> Number:
    """Return the u with S_k(u) = sigma, which is S_{1/k}(sigma)."""
    return shifted(sigma, 1 / shift)


def euler_grid(num_steps: int, shift: float) -> tuple[float, ...]:
    """Return the N + 1 levels S_k(1 - i / N) of Euler's method, from 1 to exactly 0."""
    if num_steps < 1:
        raise ConfigError(f"num_steps={num_steps}: an Euler grid has at least one step.")
    return tuple(shifted(1 - i / num_steps, shift) for i in range(num_steps + 1))


def grid_indices(sigmas: Sequence[float], num_steps: int, shift: float) -> tuple[int, ...]:
    """Return where these levels stand on the grid; raise ``GridError`` if one lies between nodes.

    A student that is trained at a level its teacher's trajectory never visited learns a mixture of
    two levels, so membership is required and indices are never written by hand.
    """
    places = [(1 - unshifted(sigma, shift)) * num_steps for sigma in sigmas]
    off = [i for i, place in enumerate(places) if abs(place - round(place)) > _ON_GRID]
    if off:
        levels = ", ".join(f"{sigmas[i]:.4f} (step {places[i]:.2f})" for i in off)
        fits = _fitting_steps(sigmas, shift)
        advice = f"num_steps={fits} would do" if fits else "no grid of up to 200 steps holds them"
        raise GridError(
            f"The levels {levels} are no nodes of a grid of {num_steps} steps with shift "
            f"{shift:g}; {advice}."
        )
    return tuple(round(place) for place in places)


def _fitting_steps(sigmas: Sequence[float], shift: float) -> str:
    bases = [1 - unshifted(sigma, shift) for sigma in sigmas]
    fits = [
        n
        for n in range(20, _MOST_STEPS + 1)
        if all(abs(base * n - round(base * n)) <= _ON_GRID for base in bases)
    ]
    return " or ".join(map(str, fits[:3]))


def score_sigmas(uniform: Tensor, shift: float, lowest: float, highest: float) -> Tensor:
    """Return the levels at which scores are compared, from ``uniform [b]`` in [0, 1).

    The law of Self-Forcing: an integer timestep, shifted, clamped to [lowest, highest].
    """
    u = (uniform * NUM_TIMESTEPS).floor() / NUM_TIMESTEPS
    return shifted(u, shift).clamp(lowest, highest)


def logit_normal(normal: Tensor, shift: float) -> Tensor:
    """Return levels whose logit is normal, then shifted: most training of flows draws these."""
    return shifted(normal.sigmoid(), shift)


def per_frame(sigma: Tensor, like: Tensor) -> Tensor:
    """Shape levels ``[b, f]`` so that they broadcast against latents ``[b, f, c, h, w]``."""
    return sigma.to(like)[(...,) + (None,) * (like.dim() - sigma.dim())]
