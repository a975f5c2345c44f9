"""Options of the dual anchor; no torch, so that a pipeline is checked without it."""

from typing import Literal

import msgspec


class DualAnchorConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Every part can be taken away, which is how the paper's ablations are run."""

    style_anchor: bool = True
    """Keep the portrait's keys and values for ever."""
    temporal_budget: int = 2
    """Latent frames of clean history; 0 keeps none. It may exceed the block."""
    history: Literal["clean", "noisy"] = "clean"
    """Emitted blocks are remembered from a clean pass over them, or, without that pass, as the pass
    saw them that emitted them (History Corrupt of Live Avatar)."""
    offset: int = -1
    """d: where the style anchor stands, relative to the first frame of the context."""
    reindex: bool = True
    """Move the style anchor along with the context; off: it stays at absolute index 0."""
    zero_anchor_audio: bool = True
    """Make the style anchor from rows of zeros; off: from the stream's first audio."""
    cache_anchor_position: Literal["relative", "absolute"] = "relative"
    """Where clean passes see the style anchor: as the paper says, or at 0 as the release does."""
    context_noise: float = 0.0
    """Noise level, 0 to 1, of emitted blocks when their keys and values are made; the network is
    told 0. The release's self-forcing inference has 0.00498 (spec section 4.6)."""
