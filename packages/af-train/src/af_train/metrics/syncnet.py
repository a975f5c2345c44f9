"""SyncNet v2: lips and sound in one space, under the names of the published weights (spec 8)."""

from collections.abc import Mapping

from af_core.weights.report import fill
from torch import Tensor, nn

WINDOW_FRAMES = 5
"""Frames that one embedding of lips sees: 200 ms."""
WINDOW_ROWS = 20
"""Rows of MFCC that one embedding of sound hears: 200 ms."""
ROWS_PER_FRAME = 4
NUM_COEFFICIENTS = 13
SIZE = 224
"""Side of the crops, in pixels."""
_EMBEDDING = 1024


class SyncNet(nn.Module):
    """Two stacks of convolutions; embeddings are not normalised."""

    def __init__(self) -> None:
        super().__init__()
        self.netcnnaud = nn.Sequential(
            *_heard(1, 64),
            nn.MaxPool2d(1, 1),
            *_heard(64, 192),
            nn.MaxPool2d(3, (1, 2)),
            *_heard(192, 384),
            *_heard(384, 256),
            *_heard(256, 256),
            nn.MaxPool2d(3, 2),
            *_heard(256, 512, (5, 4), 0),
        )
        self.netfcaud = _to_embedding()
        self.netcnnlip = nn.Sequential(
            *_seen(3, 96, (5, 7, 7), (1, 2, 2), (0, 0, 0)),
            nn.MaxPool3d((1, 3, 3), (1, 2, 2)),
            *_seen(96, 256, (1, 5, 5), (1, 2, 2)),
            nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1)),
            *_seen(256, 256, (1, 3, 3)),
            *_seen(256, 256, (1, 3, 3)),
            *_seen(256, 256, (1, 3, 3)),
            nn.MaxPool3d((1, 3, 3), (1, 2, 2)),
            *_seen(256, 512, (1, 6, 6), (1, 1, 1), (0, 0, 0)),
        )
        self.netfclip = _to_embedding()

    def hear(self, windows: Tensor) -> Tensor:
        """Embed MFCC windows float ``[n, 1, 13, 20]`` as ``[n, 1024]``."""
        return self.netfcaud(self.netcnnaud(windows).flatten(1))

    def see(self, crops: Tensor) -> Tensor:
        """Embed every window of 5 of the frames ``[n, 3, t, 224, 224]``, BGR, 0..255, float.

        Returns ``[n, t - 4, 1024]``. Only the first layer looks along time, so windows share it.
        """
        maps = self.netcnnlip(crops).flatten(2).transpose(1, 2)
        return self.netfclip(maps.flatten(0, 1)).unflatten(0, maps.shape[:2])


def load_syncnet(tensors: Mapping[str, Tensor], source: str) -> SyncNet:
    """Return the network with published weights, in evaluation mode.

    Raises ``WeightsError`` with every name at fault if they are of another network.
    """
    network = SyncNet()
    counts = {n: t for n, t in network.state_dict().items() if n.endswith("num_batches_tracked")}
    fill(network, counts | dict(tensors), source)  # files of old PyTorch lack the counts
    return network.eval().requires_grad_(False)


def _heard(
    channels_in: int, channels_out: int, kernel: int | tuple[int, int] = 3, padding: int = 1
) -> tuple[nn.Module, ...]:
    convolution = nn.Conv2d(channels_in, channels_out, kernel, padding=padding)
    return convolution, nn.BatchNorm2d(channels_out), nn.ReLU()


def _seen(
    channels_in: int,
    channels_out: int,
    kernel: tuple[int, int, int],
    stride: tuple[int, int, int] = (1, 1, 1),
    padding: tuple[int, int, int] = (0, 1, 1),
) -> tuple[nn.Module, ...]:
    convolution = nn.Conv3d(channels_in, channels_out, kernel, stride, padding)
    return convolution, nn.BatchNorm3d(channels_out), nn.ReLU()


def _to_embedding() -> nn.Sequential:
    layers = nn.Linear(512, 512), nn.BatchNorm1d(512), nn.ReLU(), nn.Linear(512, _EMBEDDING)
    return nn.Sequential(*layers)
