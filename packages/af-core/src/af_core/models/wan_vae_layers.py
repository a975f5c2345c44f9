"""The layers of the Wan 2.1 autoencoder, channels last, under the authors' parameter names.

Activations are ``[b, t, h, w, c]`` and contiguous: to a convolution that is
``channels_last_3d``, to a matrix product its rows, and pixels leave in the order in which they
are shown. A causal convolution sees the two frames before; they are written in front of the new
ones, in one stretch of memory.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from af_core.models.wan_vae_config import HISTORY

Memory = tuple[Tensor, ...]
"""What one stream remembers: the newest frames that each causal convolution saw, in order, each
``[b, 2, h, w, c]`` (``[b, 1, h, w, c]`` where the encoder halves time). Never written to."""

_TINY = 1e-12
"""Pixels shorter than this are left dark instead of being stretched."""


class Recall:
    """One call's use of a memory: read in the order of the convolutions, and collected anew."""

    def __init__(self, memory: Memory | None, *, keeps: bool = True) -> None:
        self.is_first = memory is None
        """Whether nothing came before: the call then holds the first frame and no other."""
        self._before: Iterator[Tensor] = iter(memory or ())
        self._keeps = keeps
        self._after: list[Tensor] = []

    def past(self) -> Tensor:
        """Return what the next convolution kept in the last call."""
        return next(self._before)

    def keep(self, frames: Tensor) -> None:
        """Keep a copy of the frames for the same convolution in the next call."""
        if self._keeps:
            self._after.append(frames.clone())

    def memory(self) -> Memory:
        """Return what was kept."""
        return tuple(self._after)


class ChannelNorm(nn.Module):
    """Scales the channels of each pixel to unit mean square, times ``gamma``."""

    def __init__(self, channels: int, num_axes: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(channels, *(1,) * num_axes))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last axis."""
        return F.rms_norm(x, x.shape[-1:], self.gamma.flatten(), _TINY**2 / x.shape[-1])

    def silu_into(self, out: Tensor, x: Tensor) -> None:
        """Write ``silu(self(x))`` to ``out``; without gradients."""
        (_silu_fused if x.is_cuda else _silu_in_place)(self, out, x)


def _silu_fused(norm: ChannelNorm, out: Tensor, x: Tensor) -> None:
    """Two kernels, where there is one for the norm."""
    torch.ops.aten.silu.out(norm(x), out=out)


def _silu_in_place(norm: ChannelNorm, out: Tensor, x: Tensor) -> None:
    """More sweeps, but none over fresh memory, which is what costs on a CPU."""
    size = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
    torch.mul(x, x.shape[-1] ** 0.5 / size.clamp_min_(_TINY), out=out)
    F.silu(out.mul_(norm.gamma.flatten()), inplace=True)


class CausalConv(nn.Module):
    """A convolution over time and space that sees two frames of the past and none of the future."""

    def __init__(self, channels_in: int, channels_out: int, width: int = 3) -> None:
        super().__init__()
        drawn = nn.Conv3d(channels_in, channels_out, (1 + HISTORY, width, width))
        self.weight, self.bias = drawn.weight, drawn.bias
        self.border = width // 2

    def forward(self, x: Tensor, recall: Recall, norm: ChannelNorm | None = None) -> Tensor:
        """Map ``[b, t, h, w, c]``, first normalised and activated if there is a norm.

        Before the first frame there are zeros, so only the last tap in time counts for it.
        """
        seen = joined(None if recall.is_first else recall.past(), x, norm)
        recall.keep(seen[:, -HISTORY:])
        if recall.is_first:
            images = as_images(seen[:, HISTORY:])
            made = F.conv2d(images, self.weight[:, :, -1], self.bias, padding=self.border)
            return as_video(made, x.shape[0])
        volume, padding = as_volume(seen), (0, self.border, self.border)
        return from_volume(F.conv3d(volume, self.weight, self.bias, padding=padding))


class Residual(nn.Module):
    """Norm, SiLU and causal convolution, twice, added to what came in."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.residual = nn.ModuleDict(
            {
                "0": ChannelNorm(channels_in, 3),
                "2": CausalConv(channels_in, channels_out),
                "3": ChannelNorm(channels_out, 3),
                "6": CausalConv(channels_out, channels_out),
            }
        )
        changes = channels_in != channels_out
        self.shortcut = nn.Conv3d(channels_in, channels_out, 1) if changes else None

    def forward(self, x: Tensor, recall: Recall) -> Tensor:
        """Map ``[b, t, h, w, c]``."""
        layers = self.residual
        inner = layers["2"](x, recall, layers["0"])
        inner = layers["6"](inner, recall, layers["3"])
        return inner.add_(x if self.shortcut is None else pointwise(self.shortcut, x))


class SpatialAttention(nn.Module):
    """One head of attention among the pixels of each frame."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = ChannelNorm(channels, 2)
        self.to_qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.proj = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor, recall: Recall) -> Tensor:
        """Map ``[b, t, h, w, c]``; every frame is a head of its own to the kernel."""
        q, k, v = pointwise(self.to_qkv, self.norm(x)).flatten(2, 3).chunk(3, dim=-1)
        attended = F.scaled_dot_product_attention(q, k, v)
        return x + pointwise(self.proj, attended.reshape(x.shape))


class Up(nn.Module):
    """Twice the size, half the channels; with ``in_time``, twice the frames but for the first."""

    def __init__(self, channels_in: int, channels_out: int, in_time: bool) -> None:
        super().__init__()
        self.resample = nn.ModuleDict({"1": nn.Conv2d(channels_in, channels_out, 3, padding=1)})
        self.time_conv = CausalConv(channels_in, 2 * channels_in, width=1) if in_time else None

    def forward(self, x: Tensor, recall: Recall) -> Tensor:
        """Map ``[b, t, h, w, c]`` to ``[b, t or 2 t, 2 h, 2 w, c / 2]``.

        The first frame ever stays one, and the history of those after it begins with nothing.
        """
        frames = 1
        if self.time_conv is not None and recall.is_first:
            recall.keep(x.new_zeros(1).expand(x.shape[0], HISTORY, *x.shape[2:]))
        elif self.time_conv is not None:
            frames, x = 2, self.time_conv(x, recall)
        return as_video(self.resample["1"](as_images(repeated(x, frames))), x.shape[0])


class Down(nn.Module):
    """Half the size; with ``in_time``, half the frames but for the first."""

    def __init__(self, channels_in: int, channels_out: int, in_time: bool) -> None:
        super().__init__()
        self.resample = nn.ModuleDict({"1": nn.Conv2d(channels_in, channels_out, 3, stride=2)})
        pairs = nn.Conv3d(channels_out, channels_out, (3, 1, 1), stride=(2, 1, 1))
        self.time_conv = pairs if in_time else None

    def forward(self, x: Tensor, recall: Recall) -> Tensor:
        """Map ``[b, t, h, w, c]`` to ``[b, t or t / 2, h / 2, w / 2, c]``; the first ever stays."""
        images = as_images(F.pad(x, (0, 0, 0, 1, 0, 1)))
        x = as_video(self.resample["1"](images), x.shape[0])
        if self.time_conv is None:
            return x
        seen = x if recall.is_first else torch.cat([recall.past(), x], 1)
        recall.keep(seen[:, -1:])
        return seen if recall.is_first else from_volume(self.time_conv(as_volume(seen)))


class Head(nn.ModuleDict):
    """Norm, SiLU and the last causal convolution."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        layers = {"0": ChannelNorm(channels_in, 3), "2": CausalConv(channels_in, channels_out)}
        super().__init__(layers)

    def forward(self, x: Tensor, recall: Recall) -> Tensor:
        """Map ``[b, t, h, w, c]``."""
        return self["2"](x, recall, self["0"])


class Trunk(nn.ModuleDict):
    """One half of the autoencoder: layers, and lists of layers, in the order in which they run."""

    def forward(self, x: Tensor, recall: Recall) -> Tensor:
        """Map ``[b, t, h, w, c]``."""
        for part in self.values():
            for layer in part if isinstance(part, nn.ModuleList) else (part,):
                x = layer(x, recall)
        return x


def joined(past: Tensor | None, x: Tensor, norm: ChannelNorm | None) -> Tensor:
    """Return the past and the frames ``[b, t, h, w, c]`` after it, in one stretch of memory.

    No past means two frames of zeros. With a norm, the new frames are normalised and activated.
    """
    batch, num_frames, *rest = x.shape
    if past is None:
        past = x.new_zeros(1).expand(batch, HISTORY, *rest)
    if norm is None or torch.is_grad_enabled():
        return torch.cat([past, x if norm is None else F.silu(norm(x))], 1)
    seen = x.new_empty(batch, HISTORY + num_frames, *rest)
    seen[:, :HISTORY] = past
    norm.silu_into(seen[:, HISTORY:], x)
    return seen


def pointwise(conv: nn.Conv2d | nn.Conv3d, x: Tensor) -> Tensor:
    """Apply a convolution of one pixel, which is a matrix product over the last axis."""
    return F.linear(x, conv.weight.flatten(1), conv.bias)


def as_images(x: Tensor) -> Tensor:
    """View ``[b, t, h, w, c]`` as images ``[b t, c, h, w]``, channels last in memory."""
    return x.flatten(0, 1).permute(0, 3, 1, 2)


def as_video(images: Tensor, batch: int) -> Tensor:
    """View images ``[b t, c, h, w]`` as ``[b, t, h, w, c]``."""
    return images.permute(0, 2, 3, 1).unflatten(0, (batch, -1))


def as_volume(x: Tensor) -> Tensor:
    """View ``[b, t, h, w, c]`` as ``[b, c, t, h, w]``, channels last in memory."""
    return x.permute(0, 4, 1, 2, 3)


def from_volume(volume: Tensor) -> Tensor:
    """View ``[b, c, t, h, w]`` as ``[b, t, h, w, c]``."""
    return volume.permute(0, 2, 3, 4, 1)


def repeated(x: Tensor, frames: int) -> Tensor:
    """Show each pixel four times, and unfold channels ``[frames, c]`` into frames, in one copy."""
    b, t, h, w, _ = x.shape
    cells = x.reshape(b, t, h, 1, w, 1, frames, -1).permute(0, 1, 6, 2, 3, 4, 5, 7)
    return cells.expand(-1, -1, -1, -1, 2, -1, 2, -1).reshape(b, t * frames, 2 * h, 2 * w, -1)
