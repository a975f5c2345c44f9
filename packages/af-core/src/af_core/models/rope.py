"""Rotary positions in time, rows and columns, computed for any integer and never looked up.

Angles are float64 and only their cosines and sines are float32, so a stream may run for years.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

_REMEMBERED = 256


class RotaryPositions:
    """The rotations of latent frames on one grid of tokens (spec of Wan 2.1, three axes).

    Of the ``head_dim / 2`` channel pairs, ``head_dim // 6`` turn with the row, as many with the
    column, the rest with time. The last few position lists are remembered, the rest recomputed.
    Threads may share one object: of its memory, only operations that cannot fail are used.
    """

    def __init__(self, head_dim: int, theta: float) -> None:
        self.head_dim = head_dim
        self.theta = theta
        self._recent: dict[tuple[object, ...], Tensor] = {}  # newest last

    def __call__(
        self, positions: Sequence[int], grid: tuple[int, int], device: torch.device
    ) -> Tensor:
        """Return complex64 rotations ``[f, tokens, 1, pairs]`` of frames at ``positions``."""
        key = (tuple(positions), grid, device)
        found = self._recent.pop(key, None)
        if found is None:
            with torch.inference_mode(False):  # training may meet what inference remembered
                found = rotations(positions, grid, self.head_dim, self.theta).to(device)
        self._recent[key] = found
        if len(self._recent) > _REMEMBERED:
            for oldest in list(self._recent)[:-_REMEMBERED]:
                self._recent.pop(oldest, None)
        return found


def rotations(
    positions: Sequence[int], grid: tuple[int, int], head_dim: int, theta: float = 10_000.0
) -> Tensor:
    """Compute complex64 rotations ``[f, rows * columns, 1, head_dim / 2]``."""
    rows, columns = grid
    side = head_dim // 6
    time = _angles(positions, head_dim // 2 - 2 * side, theta)
    row = _angles(range(rows), side, theta)
    column = _angles(range(columns), side, theta)
    shape = (len(positions), rows, columns)
    angles = torch.cat(
        [
            time[:, None, None].expand(*shape, -1),
            row[None, :, None].expand(*shape, -1),
            column[None, None].expand(*shape, -1),
        ],
        dim=-1,
    ).flatten(1, 2)
    return torch.complex(angles.cos().float(), angles.sin().float())[:, :, None]


def rotate(x: Tensor, rotation: Tensor) -> Tensor:
    """Turn adjacent channel pairs of ``x [..., head_dim]``; computed in float32."""
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * rotation).flatten(-2).to(x.dtype)


def _angles(positions: Sequence[int] | range, num_pairs: int, theta: float) -> Tensor:
    where = torch.tensor(list(positions), dtype=torch.float64)
    pair = torch.arange(num_pairs, dtype=torch.float64)
    return where[:, None] * theta ** (-pair / max(num_pairs, 1))
