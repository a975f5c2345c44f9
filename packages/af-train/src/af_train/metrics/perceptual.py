"""LPIPS: how far pictures are apart in what a network sees in them (Zhang et al., 2018)."""

from collections.abc import Sequence
from typing import Protocol

import attrs
import torch
from af_core.errors import WeightsError
from af_core.plugins import BuildContext
from af_core.weights.checkpoints import read_checkpoint
from af_core.weights.report import fill
from torch import Tensor, nn

from af_train.metrics.face_reader import FaceReader, shrink
from af_train.metrics.features import TOON
from af_train.metrics.options import PerceptualOptions
from af_train.metrics.readers import load_readers

_SHIFT, _SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
_BATCH = 64
_TINY = 1e-10


class Layers(Protocol):
    """Pictures float ``[n, 3, H, W]`` in 0..1 to maps ``[n, c, h, w]``, shallow to deep."""

    def __call__(self, pictures: Tensor, /) -> list[Tensor]:
        """Return one map a layer."""
        ...


class AlexNetLayers(nn.Module):
    """The five convolutions of AlexNet after their ReLU, under torchvision's names."""

    def __init__(self) -> None:
        super().__init__()
        pool = nn.MaxPool2d(3, 2)
        self.features = nn.Sequential(
            *(nn.Conv2d(3, 64, 11, 4, 2), nn.ReLU(), pool),
            *(nn.Conv2d(64, 192, 5, 1, 2), nn.ReLU(), pool),
            *(nn.Conv2d(192, 384, 3, 1, 1), nn.ReLU()),
            *(nn.Conv2d(384, 256, 3, 1, 1), nn.ReLU()),
            *(nn.Conv2d(256, 256, 3, 1, 1), nn.ReLU()),
        )

    def forward(self, pictures: Tensor) -> list[Tensor]:
        """Return the maps, 64, 192, 384, 256 and 256 channels."""
        x = (pictures * 2 - 1 - pictures.new_tensor(_SHIFT)[:, None, None]) / pictures.new_tensor(
            _SCALE
        )[:, None, None]
        return _after(list(self.features), nn.ReLU, x)


@attrs.frozen
class ToonLayers:
    """What the five convolutions of the shipped face reader see."""

    reader: FaceReader

    def __call__(self, pictures: Tensor, /) -> list[Tensor]:
        """Return the maps."""
        return _after(list(self.reader.features)[:-3], nn.SiLU, shrink(pictures) * 2 - 1)


@attrs.frozen
class PerceptualDistance:
    """Squared differences of unit vectors of channels, weighted, averaged over places, summed."""

    layers: Layers
    weights: Sequence[Tensor] | None
    """Non-negative weights ``[c]`` of the channels of each layer; equal weights without them."""
    suffix: str = ""

    @torch.inference_mode()
    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        """Return ``[n]`` for pictures uint8 ``[n, H, W, 3]``."""
        return torch.cat(
            [self._of(x, y) for x, y in zip(a.split(_BATCH), b.split(_BATCH), strict=True)]
        )

    def _of(self, a: Tensor, b: Tensor) -> Tensor:
        maps = [self.layers(x.permute(0, 3, 1, 2).float() / 255) for x in (a, b)]
        total = torch.zeros(len(a))
        for i, (x, y) in enumerate(zip(*maps, strict=True)):
            weights = x.new_full((x.shape[1],), 1 / x.shape[1])
            if self.weights is not None:
                weights = self.weights[i]
            apart = (_unit(x) - _unit(y)).square()
            total += torch.einsum("nchw,c->nhw", apart, weights).mean((1, 2))
        return total


def perceptual_distance(options: PerceptualOptions, context: BuildContext) -> PerceptualDistance:
    """Return LPIPS from files, or the toon stand-in where there are none."""
    if options.network is None or options.linear is None:
        return PerceptualDistance(ToonLayers(load_readers().face), None, TOON)
    network = AlexNetLayers()
    path = context.path(options.network)
    tensors = {n: t for n, t in read_checkpoint(path).items() if n.startswith("features.")}
    fill(network, tensors, str(path))
    linear = read_checkpoint(context.path(options.linear))
    names = [f"lin{i}.model.1.weight" for i in range(5)]
    if absent := [name for name in names if name not in linear]:
        raise WeightsError(f"{options.linear} has no {', '.join(absent)}: not LPIPS's weights.")
    return PerceptualDistance(
        network.eval().requires_grad_(False), [linear[name].float().flatten() for name in names]
    )


def _after(stack: list[nn.Module], kind: type[nn.Module], x: Tensor) -> list[Tensor]:
    maps = []
    for layer in stack:
        x = layer(x)
        if isinstance(layer, kind):
            maps.append(x)
    return maps


def _unit(x: Tensor) -> Tensor:
    return x / (x.norm(dim=1, keepdim=True) + _TINY)
