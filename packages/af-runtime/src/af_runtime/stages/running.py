"""Puts a pipeline over several processes together: folder, shared memory, supervisor, avatar."""

import logging
import sys
from collections.abc import Callable

import attrs

from af_runtime.errors import UnavailableError
from af_runtime.stages.birth import Birth
from af_runtime.stages.folder import RunFolder
from af_runtime.stages.front import ring_slot_bytes, staged_avatar
from af_runtime.stages.policy import Policy
from af_runtime.stages.ring import Ring
from af_runtime.stages.source import PipelineSource, plugin_set
from af_runtime.stages.staged import Staged
from af_runtime.stages.supervisor import Supervisor
from af_runtime.transport.stages import Hub

log = logging.getLogger(__name__)


@attrs.frozen
class StageOptions:
    """How the stages of a pipeline are run."""

    threads: int = 1
    """Threads of torch in each process."""
    ring_blocks: int = 24
    """Blocks of pixels that the shared memory has room for."""
    snapshot_every: int = 1
    """Pieces of work from one snapshot to the next, at least; what lies between is done again."""
    policy: Policy = attrs.field(factory=Policy)


def run_stages(
    source: PipelineSource,
    options: StageOptions | None = None,
    *,
    on_fatal: Callable[[], None] = lambda: None,
) -> Staged:
    """Begin a process for each part of the placement and return when all of them are up.

    Raises `StageFailedError` with what a process said if it cannot be begun, ``PipelineError`` if
    the pipeline is wrong, `UnavailableError` where there is no Linux or too little memory.
    """
    if sys.platform != "linux":
        raise UnavailableError(
            f"Stages in processes of their own need Linux, not {sys.platform}; "
            "--placement one runs all in the worker itself."
        )
    options = options or StageOptions()
    catalog = source.catalog()
    pipeline = source.open(catalog)
    folder = RunFolder()
    for left in folder.removed:
        log.warning("removed %s, left by a worker that was killed", left)
    ring = supervisor = None
    try:
        ring = Ring(ring_slot_bytes(pipeline), options.ring_blocks)
        hub = Hub(folder.path)
        birth = Birth(
            endpoint=hub.endpoint,
            name="",
            source=source,
            ring_handle=ring.memory.handle,
            ring_bytes=ring.memory.size,
            threads=options.threads,
            beat_s=options.policy.beat_s,
        )
        supervisor = Supervisor(
            pipeline, birth, hub, options.policy, plugins=plugin_set(catalog), on_fatal=on_fatal
        )
        avatar = staged_avatar(pipeline, supervisor, ring, snapshot_every=options.snapshot_every)
        return Staged(avatar, supervisor, ring, folder)
    except BaseException:
        if supervisor is not None:
            supervisor.close()
        if ring is not None:
            ring.close()
        folder.close()
        raise
