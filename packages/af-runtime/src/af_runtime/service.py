"""Puts a stream worker together: avatar, transport, health, and how it starts and stops."""

import gc
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import torch
from af_core.pipeline import Avatar
from numpy.typing import NDArray

from af_runtime.errors import KeysError, PortraitError, StageFailedError
from af_runtime.gallery import shipped_portraits
from af_runtime.health import Health, HealthServer
from af_runtime.metrics import Metrics
from af_runtime.observing import Watching
from af_runtime.pauses import noting_pauses
from af_runtime.portrait import load_portrait
from af_runtime.quotas import Quotas
from af_runtime.recording.origin import origin_of, settle_kernels
from af_runtime.recording.recorder import Recorder, made_folder
from af_runtime.server import Limits, Server
from af_runtime.stages.reporting import StageReport
from af_runtime.stages.staged import Staged
from af_runtime.tracing import block_traces
from af_runtime.transport.curve import ServerKeys, server_keys
from af_runtime.transport.endpoints import is_local
from af_runtime.transport.zeromq import ZmqServer

log = logging.getLogger(__name__)

LINGER_S = 1.0
WARM_BLOCKS = 6


@attrs.frozen
class RecordOptions:
    """Where sessions are recorded, and by which name the avatar was loaded."""

    folder: Path
    pipeline: str
    overrides: Mapping[str, Any] = attrs.field(factory=dict)
    with_pixels: bool = False
    """Whether pictures are kept too: 1.2 MB a second at 128 x 128."""


@attrs.frozen
class ServiceOptions:
    """Where a worker is reached, and how it ends."""

    bind: str = "tcp://127.0.0.1:5700"
    health: str | None = "127.0.0.1:5701"
    """Address of the health pages; None for none."""
    keys: Path | None = None
    """Folder of keys; without one nothing is encrypted."""
    is_insecure: bool = False
    """Whether a network may be served without keys all the same."""
    limits: Limits = attrs.field(factory=Limits)
    recording: RecordOptions | None = None
    """Where sessions are recorded; None for nowhere."""
    is_traced: bool = False
    """Whether blocks become spans of OpenTelemetry."""


def checked_keys(options: ServiceOptions) -> ServerKeys | None:
    """Return the keys of the worker; raises `KeysError` where there must be some."""
    if options.keys is not None:
        return server_keys(options.keys)
    if not is_local(options.bind) and not options.is_insecure:
        raise KeysError(
            f"{options.bind} can be reached by other machines, and nothing is encrypted. Make keys "
            "with `af-runtime keys new server` and give their folder as --keys; --insecure serves "
            "without."
        )
    return None


@contextmanager
def running(load: Callable[[], Avatar | Staged], options: ServiceOptions) -> Iterator[Server]:
    """Bind, load and warm the avatar, and give a server that is ready to ``run``.

    The ports are bound first: a port in use is told at once, and health says ``warming`` meanwhile.
    Raises `StageFailedError` at the end if the avatar's processes could not be kept alive.
    """
    keys = checked_keys(options)
    quotas = Quotas(keys and keys.clients, audio_window=options.limits.audio_window)
    if options.recording is not None:
        made_folder(options.recording.folder)
    traces = block_traces() if options.is_traced else None
    transport = ZmqServer(options.bind, keys)
    health, metrics = Health(), Metrics()
    with ExitStack() as at_end:
        if options.health:
            at_end.callback(HealthServer(health, options.health).close)
        at_end.callback(transport.close, LINGER_S)
        loaded = load()
        staged = loaded if isinstance(loaded, Staged) else None
        avatar = loaded.avatar if isinstance(loaded, Staged) else loaded
        if staged is not None:
            at_end.callback(staged.close)
        warm_up(avatar)
        recorder = at_end.enter_context(_recording(avatar, options.recording, metrics))
        at_end.enter_context(noting_pauses(metrics.note_pause))
        _ = avatar.identity.weights  # hashed here, not when the first session moves
        health.server = server = Server(
            avatar,
            transport,
            portraits=gallery(avatar),
            limits=options.limits,
            metrics=metrics,
            quotas=quotas,
            trusts_all=keys is None and is_local(options.bind),
            watching=Watching(recorder, traces),
            lanes=1 if staged is None else staged.num_stages,
        )
        if staged is not None:
            health.stages = StageReport(staged.supervisor)
            staged.supervisor.on_fatal = lambda: server.drain(0.0)
        yield server
        if staged is not None and staged.supervisor.fatal:
            raise StageFailedError(staged.supervisor.fatal)


@contextmanager
def _recording(
    avatar: Avatar, wanted: RecordOptions | None, metrics: Metrics
) -> Iterator[Recorder | None]:
    """Give what records the sessions of an avatar, if they are to be, until the worker ends."""
    if wanted is None:
        yield None
        return
    settle_kernels(avatar)
    recorder = Recorder(
        wanted.folder,
        origin_of(wanted.pipeline, wanted.overrides, avatar),
        with_pixels=wanted.with_pixels,
        on_bytes=metrics.recorded_bytes.inc,
        on_end=lambda outcome: metrics.recordings.labels(outcome).inc(),
    )
    try:
        yield recorder
    finally:
        recorder.close()


def warm_up(avatar: Avatar) -> float:
    """Draw a few blocks of silence, then let the garbage collector forget what stays for ever.

    Returns the seconds it took.
    """
    began = time.perf_counter()
    info = avatar.info
    state = avatar.open(torch.full((info.height, info.width, 3), 128, dtype=torch.uint8))
    for _ in range(WARM_BLOCKS):
        _, state = avatar.step(state, torch.zeros(info.frames_per_block * info.samples_per_frame))
    del state
    gc.collect()
    gc.freeze()
    return time.perf_counter() - began


def gallery(avatar: Avatar) -> Callable[[str], NDArray[np.uint8]]:
    """Return the function that finds a shipped portrait by name; it opens no other file."""

    def portrait(name: str) -> NDArray[Any]:
        shipped = shipped_portraits(avatar.info.preset)
        if name not in shipped:
            names = ", ".join(shipped) or "none"
            raise PortraitError(f"There is no portrait {name!r} here; shipped: {names}.")
        width, height = avatar.info.width, avatar.info.height
        return load_portrait(shipped[name], width=width, height=height).numpy()

    return portrait
