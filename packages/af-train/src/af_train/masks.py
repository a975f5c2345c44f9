"""Who sees whom while training, as plans of segments: the masks of every objective."""

import attrs
from af_core.anchors.dual_anchor import DualAnchorCache
from af_core.errors import ConfigError
from af_core.stages.denoiser import Plan, Segment


def bidirectional(num_frames: int) -> Plan:
    """Return the teacher's and the critic's: portrait and clip all see each other."""
    everyone = Segment(start=0, stop=1 + num_frames, sees_from=0)
    return Plan(tuple(range(1 + num_frames)), (everyone,), num_silent=1, portrait=0)


def block_causal(anchors: DualAnchorCache, num_blocks: int, block_latents: int) -> Plan:
    """Return the noisy past: a block sees itself and, within the budget, noisy blocks before it.

    The style anchor stands where a stream has it. Every frame is predicted for.
    """
    history = (num_blocks - 1) * block_latents
    return attrs.evolve(anchors.training(history, block_latents, block_latents), num_silent=1)


def over_clean_past(
    anchors: DualAnchorCache, num_past: int, num_blocks: int, block_latents: int
) -> Plan:
    """Return a stream's own: ``num_past`` clean blocks, then a window that sees itself jointly.

    With a window of one block this is teacher forcing.
    """
    if num_past < 0 or num_blocks < 1:
        raise ConfigError(f"{num_past} clean and {num_blocks} noisy blocks make no pass.")
    return anchors.training(num_past * block_latents, block_latents, num_blocks * block_latents)
