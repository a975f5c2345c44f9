"""A tiny causal video autoencoder with explicit streaming state, after TAEHV's layout.

Frames become latents at a quarter of the rate; the first frame stands alone. Every block sees the
present and one frame of the past, so streaming keeps one frame per block and nothing else, and
any cut of a video into chunks gives the same latents and the same pixels. State-dict names are
those of the public ``taew2_1`` weights, which the default configuration fits.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from af_core.models.tiny_vae_config import TinyVAEConfig as TinyVAEConfig

Memory = tuple[Tensor, ...]
"""What one stream remembers: each memory block's view of the newest frame, ``[b, c, h, w]``."""


def _conv(channels_in: int, channels_out: int, stride: int = 1, bias: bool = True) -> nn.Conv2d:
    return nn.Conv2d(channels_in, channels_out, 3, stride, padding=1, bias=bias)


class MemBlock(nn.Module):
    """A residual block that sees the present frame and the one before it."""

    def __init__(self, channels: int, pre_norm: bool) -> None:
        super().__init__()
        self.channels = channels
        self.pre_norm = pre_norm
        activation = nn.SiLU if pre_norm else nn.ReLU
        self.conv = nn.Sequential(
            _conv(2 * channels, channels),
            activation(),
            _conv(channels, channels),
            activation(),
            _conv(channels, channels),
        )

    def forward(self, x: Tensor, before: Tensor | None, batch: int) -> tuple[Tensor, Tensor]:
        """Map frames ``[t * b, c, h, w]``; ``before`` is what the last call returned beside them.

        A convolution of the joined channels (present, past) is the sum of one of each; that of
        the past is the other's, one frame late. So nothing is joined, and each frame is read once.
        """
        weight, bias = _weight_and_bias(self.conv[0])
        both = torch.cat([weight[:, : self.channels], weight[:, self.channels :]], 0)
        inner = F.silu(_unit_pixels(x)) if self.pre_norm else x
        present, past = F.conv2d(inner, both, padding=1).split(self.channels, 1)
        if before is None:
            before = torch.zeros_like(past[:batch])
        joint = present + torch.cat([before, past[:-batch]], 0) + bias[:, None, None]
        out = self.conv[1:](joint) + x
        newest = past[-batch:].clone(memory_format=torch.channels_last)  # let the others go
        return (out if self.pre_norm else F.relu(out)), newest


class TPool(nn.Module):
    """Joins every ``stride`` frames into one."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.conv = nn.Conv2d(channels * stride, channels, 1, bias=False)

    def forward(self, x: Tensor, batch: int) -> Tensor:
        """Map ``[t * b, c, h, w]`` to ``[t / stride * b, c, h, w]``."""
        grouped = x.unflatten(0, (-1, self.stride, batch)).transpose(1, 2).flatten(2, 3)
        return self.conv(_packed(grouped.flatten(0, 1)))


class TGrow(nn.Module):
    """Splits every frame into ``stride`` frames."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.conv = nn.Conv2d(channels, channels * stride, 1, bias=False)

    def forward(self, x: Tensor, batch: int) -> Tensor:
        """Map ``[t * b, c, h, w]`` to ``[t * stride * b, c, h, w]``."""
        grown = self.conv(x)
        if self.stride == 1:
            return grown
        split = grown.unflatten(1, (self.stride, -1)).unflatten(0, (-1, batch))
        return _packed(split.transpose(1, 2).flatten(0, 2))


def _unit_pixels(x: Tensor) -> Tensor:
    """Scale each pixel's channels to unit mean square."""
    return x * x.float().square().mean(1, keepdim=True).add(1e-4).rsqrt().to(x.dtype)


def _packed(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


class Clamp(nn.Module):
    """Softly bounds latents to -3..3."""

    def forward(self, x: Tensor) -> Tensor:
        """Return ``3 tanh(x / 3)``."""
        return torch.tanh(x / 3) * 3


def _encoder(config: TinyVAEConfig) -> nn.Sequential:
    widths = config.encoder_channels
    if not widths:
        return nn.Sequential()
    layers: list[nn.Module] = [_conv(3 * config.patch_size**2, widths[0]), nn.ReLU()]
    stages = zip(config.encoder_blocks, config.encoder_time, config.encoder_space, strict=True)
    for i, (num_blocks, time, space) in enumerate(stages):
        layers += [TPool(widths[i], time), _conv(widths[i], widths[i + 1], space, bias=False)]
        layers += [MemBlock(widths[i + 1], config.pre_norm) for _ in range(num_blocks)]
    layers.append(_conv(widths[-1], config.latent_channels))
    return nn.Sequential(*layers)


def _decoder(config: TinyVAEConfig) -> nn.Sequential:
    widths = config.decoder_channels
    if not widths:
        return nn.Sequential()
    layers: list[nn.Module] = [Clamp(), _conv(config.latent_channels, widths[0]), nn.ReLU()]
    stages = zip(config.decoder_blocks, config.decoder_time, config.decoder_space, strict=True)
    for i, (num_blocks, time, space) in enumerate(stages):
        layers += [MemBlock(widths[i], config.pre_norm) for _ in range(num_blocks)]
        layers += [nn.Upsample(scale_factor=space), TGrow(widths[i], time)]
        layers.append(_conv(widths[i], widths[i + 1], bias=False))
    layers += [nn.ReLU(), _conv(widths[-1], 3 * config.patch_size**2)]
    return nn.Sequential(*layers)


def _linear_path(config: TinyVAEConfig) -> nn.Conv2d:
    """Return the map from a latent, and from those around it in space and time, to a patch."""
    if config.shortcut_context:
        return _conv(2 * config.latent_channels, config.patch_values)
    return nn.Conv2d(config.latent_channels, config.patch_values, 1)


def _weight_and_bias(layer: nn.Module) -> tuple[Tensor, Tensor]:
    assert isinstance(layer, nn.Conv2d) and layer.bias is not None
    return layer.weight, layer.bias


def _initialise(model: "TinyVAE") -> None:
    """Start with signals of even size, residual blocks that do nothing, and grey pictures."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="linear")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for module in model.modules():
        if isinstance(module, MemBlock):
            nn.init.zeros_(_weight_and_bias(module.conv[-1])[0])
    if len(model.decoder):
        weight, bias = _weight_and_bias(model.decoder[-1])
        nn.init.normal_(weight, std=0.2 / weight[0].numel() ** 0.5)
        nn.init.constant_(bias, 0.6)


def _run(layers: nn.Sequential, video: Tensor, memory: Memory | None) -> tuple[Tensor, Memory]:
    """Run ``[b, t, c, h, w]`` through the layers with time outermost, so that time is a shift."""
    batch = len(video)
    x = _packed(video.transpose(0, 1).flatten(0, 1))
    kept: list[Tensor] = []
    for layer in layers:
        if isinstance(layer, MemBlock):
            x, newest = layer(x, None if memory is None else memory[len(kept)], batch)
            kept.append(newest)
        elif isinstance(layer, (TPool, TGrow)):
            x = layer(x, batch)
        else:
            x = layer(x)
    return x.unflatten(0, (-1, batch)).transpose(0, 1), tuple(kept)


class TinyVAE(nn.Module):
    """Images in 0..1 to latents and back, in chunks of any size."""

    mean: Tensor
    std: Tensor

    def __init__(self, config: TinyVAEConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = _encoder(config)
        self.decoder = _decoder(config)
        channels = config.latent_channels
        if config.shortcut:
            self.shortcut_in = nn.Conv2d(config.patch_values, config.latent_channels, 1)
            self.shortcut_out = _linear_path(config)
        _initialise(self)
        mean = config.latent_mean or (0.0,) * channels
        std = config.latent_std or (1.0,) * channels
        self.register_buffer("mean", torch.tensor(mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(std)[:, None, None], persistent=False)

    def encode(self, video: Tensor, memory: Memory | None = None) -> tuple[Tensor, Memory]:
        """Encode ``[b, t, 3, H, W]`` in 0..1 to normalised latents ``[b, t', c, h, w]``.

        Without memory the video begins: its first frame stands for four equal ones, so ``t`` is
        ``1 + 4 k`` and a still image is an ordinary latent. With memory ``t`` is ``4 k``. (The
        published TAEHV repeats the last frame of a clip instead; of a still image, both make one.)
        """
        if memory is None:
            lead = self.config.temporal_stride - 1
            video = torch.cat([video[:, :1].expand(-1, lead, -1, -1, -1), video], 1)
        linear = self._shortcut_in(video) if self.config.shortcut else 0
        latents, kept = self._encode(video, memory) if self.config.encoder_channels else (0, ())
        latents = latents + linear
        return (latents - self.mean) / self.std, kept

    def decode(self, latents: Tensor, memory: Memory | None = None) -> tuple[Tensor, Memory]:
        """Decode normalised latents ``[b, t, c, h, w]`` to ``[b, t', 3, H, W]``, not clamped.

        Without memory the first latent gives one frame; every other latent gives four.
        """
        latents = latents * self.std + self.mean
        parts: list[Tensor] = []
        kept: Memory = ()
        if self.config.decoder_channels:
            made, kept = self._decode(latents, memory)
            parts.append(made)
        if self.config.shortcut:
            parts.append(self._shortcut_out(self._with_context(latents, memory)))
            kept = (*kept, latents[:, -1].clone()) if self.config.shortcut_context else kept
        video = parts[0] if len(parts) == 1 else parts[0] + parts[1]
        if memory is None:
            video = video[:, self.config.temporal_stride - 1 :]
        return video, kept

    def _with_context(self, latents: Tensor, memory: Memory | None) -> Tensor:
        """Join each latent ``[b, t, c, h, w]`` with the one before; the first follows itself."""
        if not self.config.shortcut_context:
            return latents
        before = latents[:, :1] if memory is None else memory[-1][:, None]
        return torch.cat([latents, torch.cat([before, latents[:, :-1]], 1)], 2)

    def _encode(self, video: Tensor, memory: Memory | None) -> tuple[Tensor, Memory]:
        if self.config.patch_size > 1:
            video = F.pixel_unshuffle(video, self.config.patch_size)
        return _run(self.encoder, video, memory)

    def _decode(self, latents: Tensor, memory: Memory | None) -> tuple[Tensor, Memory]:
        video, kept = _run(self.decoder, latents, memory)
        if self.config.patch_size > 1:
            video = F.pixel_shuffle(video, self.config.patch_size)
        return video, kept

    def _shortcut_in(self, video: Tensor) -> Tensor:
        folded = self.fold(video)
        return self.shortcut_in(folded.flatten(0, 1)).unflatten(0, folded.shape[:2])

    def _shortcut_out(self, latents: Tensor) -> Tensor:
        patches = self.shortcut_out(latents.flatten(0, 1)).unflatten(0, latents.shape[:2])
        frames = patches.unflatten(2, (self.config.temporal_stride, -1)).flatten(1, 2)
        return F.pixel_shuffle(frames, self.config.spatial_stride)

    def fold(self, video: Tensor) -> Tensor:
        """Fold ``[b, 4 k, 3, H, W]`` into the patches of latent cells ``[b, k, values, h, w]``."""
        folded = F.pixel_unshuffle(video, self.config.spatial_stride)
        return folded.unflatten(1, (-1, self.config.temporal_stride)).flatten(2, 3)

    def channel_scales(self) -> Tensor:
        """Return how far the linear path moves the picture per unit of each channel, ``[c]``."""
        weight = self.shortcut_out.weight[:, : self.config.latent_channels]
        return weight.square().sum((0, 2, 3)).sqrt()

    @torch.no_grad()
    def start_from_components(self, patches: Tensor, weights: Tensor) -> None:
        """Start the shortcut at the whitened principal components of ``patches [n, values]``.

        ``weights [n]`` say how much each counts. The networks start with nothing to add.
        """
        share = (weights / weights.sum())[:, None]
        mean = (patches * share).sum(0)
        centred = patches - mean
        variances, basis = torch.linalg.eigh(centred.T @ (centred * share))
        kept = slice(-self.config.latent_channels, None)
        std, basis = variances[kept].sqrt(), basis[:, kept]
        into, into_bias = _weight_and_bias(self.shortcut_in)
        out, out_bias = _weight_and_bias(self.shortcut_out)
        into.copy_((basis / std).T[:, :, None, None])
        into_bias.copy_(-(basis / std).T @ mean)
        out.zero_()[:, : len(std), out.shape[2] // 2, out.shape[3] // 2].copy_(basis * std)
        out_bias.copy_(mean)
        for network in (self.encoder, self.decoder):
            if len(network):
                weight, bias = _weight_and_bias(network[-1])
                weight.mul_(0.1)
                nn.init.zeros_(bias)
