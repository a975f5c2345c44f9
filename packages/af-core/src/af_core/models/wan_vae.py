"""The Wan 2.1 autoencoder as two networks that stream: pictures to latents, latents to pictures.

Both take any number of frames at a time and hand back what they must remember as a value. The
first frame of a video is a latent of its own, every further latent stands for four frames.
Parameters have the authors' names (``encoder.*`` and ``conv1``, ``decoder.*`` and ``conv2``).
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from af_core.errors import GeometryError
from af_core.geometry import TEMPORAL_STRIDE
from af_core.models.wan_vae_config import (
    LATENTS_PER_CALL,
    LayerShape,
    WanVAEConfig,
    decoder_layers,
    encoder_layers,
)
from af_core.models.wan_vae_layers import (
    CausalConv,
    Down,
    Head,
    Memory,
    Recall,
    Residual,
    SpatialAttention,
    Trunk,
    Up,
    pointwise,
)


class WanEncoder(nn.Module):
    """Pictures in -1..1 to normalised latents, the mean of what the published encoder predicts."""

    def __init__(self, config: WanVAEConfig) -> None:
        super().__init__()
        self.config = config
        channels = 2 * config.latent_channels  # means, and variances that nobody reads
        self.encoder = Trunk(
            {
                "conv1": CausalConv(3, config.dim),
                "downsamples": nn.ModuleList(_layer(shape) for shape in encoder_layers(config)),
                "middle": _middle(config.widest),
                "head": Head(config.widest, channels),
            }
        )
        self.conv1 = nn.Conv3d(channels, channels, 1)
        self.scale = LatentScale(config)
        _put_channels_last(self)

    def encode_image(self, image: Tensor) -> Tensor:
        """Encode ``[b, 3, H, W]`` to float32 ``[b, 1, c, h, w]``; nothing is remembered."""
        return self._encode(image[:, None], Recall(None, keeps=False))

    def encode(
        self, video: Tensor, memory: Memory | None = None, latents_per_call: int = LATENTS_PER_CALL
    ) -> tuple[Tensor, Memory]:
        """Encode ``[b, t, 3, H, W]`` to float32 ``[b, f, c, h, w]``.

        Without memory the video begins and ``t`` is ``1 + 4 k``; with memory it goes on and ``t``
        is ``4 k``. Raise ``GeometryError`` for other lengths, and for sides that 8 does not divide.
        """
        _check_length(video.shape[1], memory is None)
        pieces = _pieces(video, memory is None, TEMPORAL_STRIDE * latents_per_call)
        return _streamed(self._encode, pieces, memory)

    def _encode(self, video: Tensor, recall: Recall) -> Tensor:
        _check_sides(video, self.config.spatial_stride)
        pixels = video.permute(0, 1, 3, 4, 2).to(self.conv1.weight.dtype).contiguous()
        moments = pointwise(self.conv1, self.encoder(pixels, recall))
        means = moments[..., : self.config.latent_channels]
        return self.scale.normalise(means).float().permute(0, 1, 4, 2, 3)


class WanDecoder(nn.Module):
    """Normalised latents to pictures in -1..1."""

    def __init__(self, config: WanVAEConfig) -> None:
        super().__init__()
        self.config = config
        self.conv2 = nn.Conv3d(config.latent_channels, config.latent_channels, 1)
        self.decoder = Trunk(
            {
                "conv1": CausalConv(config.latent_channels, config.widest),
                "middle": _middle(config.widest),
                "upsamples": nn.ModuleList(_layer(shape) for shape in decoder_layers(config)),
                "head": Head(config.dim * config.multipliers[0], 3),
            }
        )
        self.scale = LatentScale(config)
        _put_channels_last(self)

    def decode(
        self,
        latents: Tensor,
        memory: Memory | None = None,
        latents_per_call: int = LATENTS_PER_CALL,
    ) -> tuple[Tensor, Memory]:
        """Decode ``[b, f, c, h, w]`` to ``[b, n, 3, H, W]`` in -1..1, in the type of the weights.

        Without memory the first latent gives one frame; every other latent gives four. Memory that
        is given is only read: an older one steps to the same frames again.
        """
        pieces = _pieces(latents, memory is None, latents_per_call)
        video, memory = _streamed(self._decode, pieces, memory)
        return video.permute(0, 1, 4, 2, 3), memory

    def _decode(self, latents: Tensor, recall: Recall) -> Tensor:
        raw = self.scale.denormalise(latents.permute(0, 1, 3, 4, 2)).to(self.conv2.weight.dtype)
        return self.decoder(pointwise(self.conv2, raw), recall).clamp(-1, 1)


class LatentScale(nn.Module):
    """Mean and spread of each latent channel, in a type of its own, whatever the weights have.

    In bfloat16 it rounds where the authors' release does: mean, spread, one over it, each step.
    """

    mean: Tensor
    inverse_std: Tensor

    def __init__(self, config: WanVAEConfig) -> None:
        super().__init__()
        dtype = getattr(torch, config.latent_scale_dtype)
        mean = torch.tensor(config.latent_mean).to(dtype)
        inverse_std = 1 / torch.tensor(config.latent_std).to(dtype)
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("inverse_std", inverse_std, persistent=False)

    def normalise(self, latents: Tensor) -> Tensor:
        """Map raw latents ``[..., c]`` to those a denoiser works on."""
        return (latents.to(self.mean.dtype) - self.mean) * self.inverse_std

    def denormalise(self, latents: Tensor) -> Tensor:
        """Map latents ``[..., c]`` of a denoiser to raw ones."""
        return latents.to(self.mean.dtype) / self.inverse_std + self.mean

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "LatentScale":
        return super()._apply(lambda tensor: tensor.to(fn(tensor).device), recurse)


def _layer(shape: LayerShape) -> nn.Module:
    if shape.kind == "residual":
        return Residual(shape.channels_in, shape.channels_out)
    kind = Up if shape.kind == "up" else Down
    return kind(shape.channels_in, shape.channels_out, shape.in_time)


def _middle(channels: int) -> nn.ModuleList:
    layers = (Residual(channels, channels), SpatialAttention(channels))
    return nn.ModuleList([*layers, Residual(channels, channels)])


def _put_channels_last(network: nn.Module) -> None:
    """Lay the weights of convolutions out as their inputs are, so that no kernel must."""
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    for weight in network.parameters():
        if weight.ndim in formats:
            weight.data = weight.data.contiguous(memory_format=formats[weight.ndim])


def _pieces(frames: Tensor, begins: bool, size: int) -> list[Tensor]:
    """Cut along axis 1: the first frame of a video alone, then ``size`` at a time."""
    first, rest = (frames[:, :1], frames[:, 1:]) if begins else (frames[:, :0], frames)
    return [piece for piece in (first, *rest.split(size, 1)) if piece.shape[1]]


def _streamed(
    run: Callable[[Tensor, Recall], Tensor], pieces: list[Tensor], memory: Memory | None
) -> tuple[Tensor, Memory]:
    made: list[Tensor] = []
    for piece in pieces:
        recall = Recall(memory)
        made.append(run(piece, recall))
        memory = recall.memory()
    return torch.cat(made, 1), memory or ()


def _check_length(num_frames: int, begins: bool) -> None:
    first = int(begins)
    if num_frames < 1 or (num_frames - first) % TEMPORAL_STRIDE:
        below = num_frames - (num_frames - first) % TEMPORAL_STRIDE
        fits = " or ".join(str(n) for n in (below, below + TEMPORAL_STRIDE) if n > 0)
        what = "A video begins with 1 frame, and then" if begins else "A video goes on by"
        raise GeometryError(
            f"{what} whole latents of {TEMPORAL_STRIDE} frames; {num_frames} frames do not fit, "
            f"{fits} would."
        )


def _check_sides(video: Tensor, stride: int) -> None:
    height, width = video.shape[-2:]
    if height % stride or width % stride or not height or not width:
        raise GeometryError(
            f"A picture of {width}x{height} cannot be cut into latent cells of {stride}x{stride} "
            "pixels; both sides must be multiples."
        )
