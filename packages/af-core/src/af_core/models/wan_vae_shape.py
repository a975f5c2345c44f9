"""Counts what the Wan 2.1 autoencoder weighs and remembers, from its shape alone; no torch."""

from af_core.models.wan_vae_config import (
    HISTORY,
    LayerShape,
    WanVAEConfig,
    decoder_layers,
    encoder_layers,
)


def encoder_parameters(config: WanVAEConfig) -> int:
    """Return the weights of the encoder half."""
    channels = 2 * config.latent_channels
    layers = sum(_parameters(layer) for layer in encoder_layers(config))
    return _ends(config, 3, config.dim, config.widest, channels) + layers + _pointwise(channels)


def decoder_parameters(config: WanVAEConfig) -> int:
    """Return the weights of the decoder half."""
    channels, finest = config.latent_channels, config.dim * config.multipliers[0]
    layers = sum(_parameters(layer) for layer in decoder_layers(config))
    return _ends(config, channels, config.widest, finest, 3) + layers + _pointwise(channels)


def decoder_memory(config: WanVAEConfig, latent_height: int, latent_width: int) -> int:
    """Return the numbers that one stream of decoding keeps: two frames of each convolution."""
    cells = latent_height * latent_width
    channels = cells * (config.latent_channels + 4 * config.widest)  # the first one, the middle
    for layer in decoder_layers(config):
        if layer.kind == "residual":
            channels += cells * (layer.channels_in + layer.channels_out)
            continue
        channels += cells * layer.channels_in if layer.in_time else 0
        cells *= 4
    return HISTORY * (channels + cells * config.dim * config.multipliers[0])


def _ends(config: WanVAEConfig, begins: int, first: int, last: int, ends: int) -> int:
    """Return the weights of the first convolution, the middle and the head."""
    c = config.widest
    middle = (
        2 * _parameters(LayerShape("residual", c, c)) + c + _pointwise(c, 3 * c) + _pointwise(c)
    )
    return 27 * begins * first + first + middle + last + 27 * last * ends + ends


def _parameters(layer: LayerShape) -> int:
    c_in, c_out = layer.channels_in, layer.channels_out
    if layer.kind == "residual":
        shortcut = _pointwise(c_in, c_out) if c_in != c_out else 0
        return c_in + 27 * c_in * c_out + c_out + c_out + 27 * c_out**2 + c_out + shortcut
    grown = 2 * c_in if layer.kind == "up" else c_in
    in_time = 3 * c_in * grown + grown if layer.in_time else 0
    return 9 * c_in * c_out + c_out + in_time


def _pointwise(channels_in: int, channels_out: int | None = None) -> int:
    channels_out = channels_out or channels_in
    return channels_in * channels_out + channels_out
