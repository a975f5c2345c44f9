"""What a stage process is told when it begins."""

import msgspec

from af_runtime.stages.source import PipelineSource


class Birth(msgspec.Struct, frozen=True, kw_only=True):
    """Who a process is, where its supervisor listens, and which pipeline it is a part of."""

    endpoint: str
    """Where its supervisor listens."""
    name: str
    """How it calls itself on the line."""
    source: PipelineSource
    process: str = ""
    """Which part of the placement it is; empty for a spare, which is told later."""
    ring_handle: int = -1
    """Open file of the shared memory, in the supervisor; its copy has another number."""
    ring_bytes: int = 0
    threads: int = 1
    """Threads of torch."""
    beat_s: float = 0.5
    """Seconds between signs of life."""
