"""Options of the window schedulers; no torch, so that a pipeline is checked without it."""

import msgspec


class LocalFutureConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The mechanism B_{L,N}."""

    num_slots: int = 4
    """L: blocks denoised together."""
    num_passes: int = 1
    """N: denoising passes of one step; the ladder has L * N rungs."""


class CausalConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The mechanism B_{1,N}."""

    num_passes: int = 4
    """N: denoising passes of one block, one per rung of the ladder."""
