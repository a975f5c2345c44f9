"""Noise that says what will happen: standard normal numbers hidden in a block's noise.

Where nothing foretells the data, regression from independent noise averages it. If instead the
numbers that decided a clip are functions of the noise it is learned from, the map from noise to
clip is single-valued and regression finds it, as it does along a teacher's trajectories. Number
``k`` is the mean of noise channel ``k`` times the root of its cells; noise drawn freely has such
numbers too, so a trained network is used as any other.
"""

import torch
from af_core.errors import ShapeError
from torch import Tensor


def plant(noise: Tensor, numbers: Tensor) -> Tensor:
    """Return ``noise [..., c, h, w]``, standard normal, that says ``numbers [..., n]``, ``n <= c``.

    If the numbers are standard normal and independent, so is what is returned.
    """
    count = numbers.shape[-1]
    change = (numbers - read(noise, count)) / _root_of_cells(noise)
    told = noise[..., :count, :, :] + change[..., None, None]
    return torch.cat([told, noise[..., count:, :, :]], -3)


def tell(noise: Tensor, numbers: Tensor | None) -> Tensor:
    """Return ``noise [..., c, h, w]`` that says ``numbers [..., n]``, or itself if there are none.

    Raises ``ShapeError`` unless there is a row of numbers for every frame of noise.
    """
    if numbers is None:
        return noise
    if numbers.shape[:-1] != noise.shape[:-3]:
        raise ShapeError(
            f"Noise of {list(noise.shape[:-3])} frames cannot say numbers of "
            f"{list(numbers.shape[:-1])}."
        )
    return plant(noise, numbers)


def read(noise: Tensor, count: int) -> Tensor:
    """Return the first ``count`` numbers that ``noise [..., c, h, w]`` says, ``[..., count]``."""
    if count > noise.shape[-3]:
        raise ShapeError(f"{count} numbers need as many channels; the noise has {noise.shape[-3]}.")
    return noise[..., :count, :, :].mean((-2, -1)) * _root_of_cells(noise)


def _root_of_cells(noise: Tensor) -> float:
    return float((noise.shape[-2] * noise.shape[-1]) ** 0.5)
