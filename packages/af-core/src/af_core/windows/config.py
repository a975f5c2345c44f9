"""Options of the window schedulers; no torch, so that a pipeline is checked without it."""

import msgspec

from af_core.errors import ConfigError


class LocalFutureConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The mechanism B_{L,N}."""

    num_slots: int = 4
    """L: blocks denoised together."""
    num_passes: int = 1
    """N: denoising passes of one step; the ladder has L * N rungs."""
    audio_lookahead_blocks: int | None = None
    """Blocks of later speech that a block waits for, 0 to L - 1; None: L - 1, as in the paper. With
    fewer, blocks enter the window unheard and are driven by speech from the pass on that has it."""


class CausalConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The mechanism B_{1,N}."""

    num_passes: int = 4
    """N: denoising passes of one block, one per rung of the ladder."""


def require_lookahead(config: LocalFutureConfig) -> None:
    """Refuse a look-ahead that the window does not have."""
    ahead, most = config.audio_lookahead_blocks, config.num_slots - 1
    if ahead is not None and not 0 <= ahead <= most:
        raise ConfigError(
            f"audio_lookahead_blocks={ahead}: a window of {config.num_slots} can wait for 0 to "
            f"{most} later blocks of speech."
        )
