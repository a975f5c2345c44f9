"""Puts a stream worker together: avatar, transport, health, and how it starts and stops."""

import gc
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import torch
from af_core.pipeline import Avatar
from numpy.typing import NDArray

from af_runtime.errors import KeysError, PortraitError
from af_runtime.gallery import shipped_portraits
from af_runtime.health import Health, HealthServer
from af_runtime.portrait import load_portrait
from af_runtime.quotas import Quotas
from af_runtime.server import Limits, Server
from af_runtime.transport.curve import ServerKeys, server_keys
from af_runtime.transport.endpoints import is_local
from af_runtime.transport.zeromq import ZmqServer

log = logging.getLogger(__name__)

LINGER_S = 1.0
WARM_BLOCKS = 6


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
def running(load: Callable[[], Avatar], options: ServiceOptions) -> Iterator[Server]:
    """Bind, load and warm the avatar, and give a server that is ready to ``run``.

    The ports are bound first: a port in use is told at once, and health says ``warming`` meanwhile.
    """
    keys = checked_keys(options)
    quotas = Quotas(keys and keys.clients, audio_window=options.limits.audio_window)
    transport = ZmqServer(options.bind, keys)
    health, pages = Health(), None
    try:
        pages = HealthServer(health, options.health) if options.health else None
        avatar = load()
        warm_up(avatar)
        server = Server(
            avatar,
            transport,
            portraits=gallery(avatar),
            limits=options.limits,
            quotas=quotas,
            trusts_all=keys is None and is_local(options.bind),
        )
        _ = avatar.identity.weights  # hashed here, not when the first session moves
        health.server = server
        yield server
    finally:
        transport.close(LINGER_S)
        if pages is not None:
            pages.close()


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
