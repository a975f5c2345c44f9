"""Shape of the speech encoder; no torch, so that a pipeline is checked without it."""

import msgspec


class MelConvConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Shape of the speech encoder."""

    num_mels: int = 80
    width: int = 128
    dilations: tuple[int, ...] = (1, 2, 4)
    feature_dim: int = 64
