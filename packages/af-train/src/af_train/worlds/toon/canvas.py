"""A batch of images painted with antialiased shapes given by signed distances."""

import math

import attrs
import torch
from torch import Tensor

ZOOM = 0.80
"""Half the height of the picture in head units."""

_CENTRE_Y = -0.02


@attrs.frozen
class Canvas:
    """Pixels ``[n, 3, rows, columns]`` with the coordinates of their centres.

    ``x`` ``[1, 1, columns]`` and ``y`` ``[1, rows, 1]`` are in head units, y downwards;
    ``pixel`` is the width of one pixel in head units.
    """

    image: Tensor
    x: Tensor
    y: Tensor
    pixel: float

    def crop(self, rows: slice, columns: slice) -> "Canvas":
        """Return a canvas that paints on a rectangle of this one."""
        image = self.image[:, :, rows, columns]
        return Canvas(image, self.x[..., columns], self.y[:, rows], self.pixel)

    def cover(self, distance: Tensor, softness: float = 1.0) -> Tensor:
        """Return the share of each pixel inside a shape, ``[n, rows, columns]`` in 0..1."""
        return (0.5 - distance / (self.pixel * softness)).clamp(0, 1)

    def paint(self, alpha: Tensor, colour: Tensor) -> None:
        """Lay ``colour`` (``[n, 3]`` or ``[3]``) over the image with opacity ``alpha``."""
        self.image.lerp_(colour.reshape(-1, 3, 1, 1), alpha[:, None].expand_as(self.image))


def blank(num_images: int, size: int, device: torch.device) -> Canvas:
    """Return a black square canvas."""
    centres = ((torch.arange(size, device=device) + 0.5) / size * 2 - 1) * ZOOM
    image = torch.zeros(num_images, 3, size, size, device=device)
    return Canvas(
        image, centres[None, None, :], centres[None, :, None] + _CENTRE_Y, 2 * ZOOM / size
    )


def to_pixels(x: Tensor, y: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Return where points in head units lie in a picture, in pixels from its upper left corner."""
    return (x / ZOOM + 1) * size / 2, ((y - _CENTRE_Y) / ZOOM + 1) * size / 2


def ellipse(x: Tensor, y: Tensor, radius_x: Tensor | float, radius_y: Tensor | float) -> Tensor:
    """Return an approximate signed distance to an ellipse about the origin."""
    inside = ((x / radius_x) ** 2 + (y / radius_y) ** 2).add(1e-8).sqrt()
    gradient = ((x / radius_x**2) ** 2 + (y / radius_y**2) ** 2).add(1e-8).sqrt()
    return inside * (inside - 1) / gradient


def rounded_box(
    x: Tensor, y: Tensor, half_width: Tensor, half_height: Tensor, radius: float
) -> Tensor:
    """Return the signed distance to a box about the origin with rounded corners."""
    over_x, over_y = x.abs() - half_width + radius, y.abs() - half_height + radius
    outside = (over_x.clamp(min=0).square() + over_y.clamp(min=0).square()).add(1e-9).sqrt()
    return outside + torch.maximum(over_x, over_y).clamp(max=0) - radius


def enclose(canvas: Canvas, x: Tensor, y: Tensor) -> tuple[slice, slice]:
    """Return the rows and columns that hold all these points, with a pixel to spare."""
    height, width = canvas.image.shape[-2:]
    rows = (torch.stack([y.amin(), y.amax()]) - canvas.y[0, 0, 0]) / canvas.pixel
    columns = (torch.stack([x.amin(), x.amax()]) - canvas.x[0, 0, 0]) / canvas.pixel
    top, bottom = rows.tolist()
    left, right = columns.tolist()
    return _span(top, bottom, height), _span(left, right, width)


def _span(first: float, last: float, size: int) -> slice:
    return slice(max(0, math.floor(first) - 1), max(1, min(size, math.ceil(last) + 2)))
