"""Shape of the tiny video autoencoder; no torch, so that a pipeline is checked without it."""

import math

import msgspec


class TinyVAEConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Shape of the autoencoder. The defaults are ``taew2_1`` (8x space, 4x time, 16 channels)."""

    latent_channels: int = 16
    patch_size: int = 1
    """Pixels are unshuffled by this much before the encoder and shuffled back after the decoder."""
    encoder_channels: tuple[int, ...] = (64, 64, 64, 64)
    """Width after the first convolution, then of each stage; empty: ``shortcut`` alone."""
    encoder_blocks: tuple[int, ...] = (3, 3, 3)
    encoder_time: tuple[int, ...] = (2, 2, 1)
    encoder_space: tuple[int, ...] = (2, 2, 2)
    decoder_channels: tuple[int, ...] = (256, 128, 64, 64)
    """Width of each stage, then before the last convolution; empty: ``shortcut`` alone."""
    decoder_blocks: tuple[int, ...] = (3, 3, 3)
    decoder_time: tuple[int, ...] = (1, 2, 2)
    decoder_space: tuple[int, ...] = (2, 2, 2)
    pre_norm: bool = False
    """Residual blocks normalise each pixel first and add their change last, without a ReLU: trains
    from scratch several times faster. The public weights were made without it."""
    shortcut: bool = False
    """Add a linear path around the encoder and around the decoder, from patch to latent and back.

    Started at the principal components of patches, it shows a blocky picture from the first step,
    and the networks have only to learn what is not linear.
    """
    shortcut_context: bool = False
    """The linear path of the decoder also sees a cell's eight neighbours and the latent before, so
    that it can smooth over the borders of patches, in space and in time."""
    latent_mean: tuple[float, ...] | None = None
    """Per channel; a denoiser works on ``(latent - mean) / std``. None: the denoiser's latents are
    those of the network, as with ``taew2_1``, which knows no mean and no deviation of Wan's."""
    latent_std: tuple[float, ...] | None = None

    @property
    def spatial_stride(self) -> int:
        """Pixels per latent along each side."""
        return self.patch_size * math.prod(self.decoder_space)

    def decoder_memory(self, latent_height: int, latent_width: int) -> int:
        """Return the numbers that one stream of decoding keeps.

        A frame of each memory block, and the newest latent if the linear path looks back.
        """
        cells = latent_height * latent_width
        numbers = self.latent_channels * cells if self.shortcut_context else 0
        stages = zip(self.decoder_channels, self.decoder_blocks, self.decoder_space, strict=False)
        for channels, num_blocks, space in stages:
            numbers += num_blocks * channels * cells
            cells *= space**2
        return numbers

    @property
    def encoder_parameters(self) -> int:
        """Weights of the half that encodes."""
        c = self.encoder_channels
        linear = _conv(self.patch_values, self.latent_channels, 1) if self.shortcut else 0
        if not c:
            return linear
        ends = _conv(3 * self.patch_size**2, c[0]) + _conv(c[-1], self.latent_channels)
        stages = zip(c, c[1:], self.encoder_blocks, self.encoder_time, strict=False)
        return (
            linear
            + ends
            + sum(
                time * a * a + 9 * a * b + count * _memory_block(b) for a, b, count, time in stages
            )
        )

    @property
    def decoder_parameters(self) -> int:
        """Weights of the half that decodes."""
        c, seen = self.decoder_channels, 2 if self.shortcut_context else 1
        side = 3 if self.shortcut_context else 1
        linear = _conv(seen * self.latent_channels, self.patch_values, side) if self.shortcut else 0
        if not c:
            return linear
        ends = _conv(self.latent_channels, c[0]) + _conv(c[-1], 3 * self.patch_size**2)
        stages = zip(c, c[1:], self.decoder_blocks, self.decoder_time, strict=False)
        return (
            linear
            + ends
            + sum(
                time * a * a + 9 * a * b + count * _memory_block(a) for a, b, count, time in stages
            )
        )

    @property
    def patch_values(self) -> int:
        """Numbers in the piece of video that one latent cell stands for."""
        return 3 * self.spatial_stride**2 * self.temporal_stride

    @property
    def temporal_stride(self) -> int:
        """Video frames per latent frame."""
        return math.prod(self.decoder_time)


def _conv(inputs: int, outputs: int, side: int = 3) -> int:
    """Return the weights of a convolution with a bias."""
    return side * side * inputs * outputs + outputs


def _memory_block(channels: int) -> int:
    return _conv(2 * channels, channels) + 2 * _conv(channels, channels)
