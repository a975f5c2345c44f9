"""A stream worker in this process, for a demo that was not told of another."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from af_core.pipeline import Avatar
from numpy.typing import NDArray

from af_runtime.errors import PortraitError
from af_runtime.server import Limits, Server
from af_runtime.transport.zeromq import ZmqServer

LINGER_S = 0.5
WARM_BLOCKS = 6


@contextmanager
def own_worker(avatar: Avatar, *, max_sessions: int = 2) -> Iterator[str]:
    """Serve an avatar on a free port of loopback until the block ends; gives the endpoint."""
    _warm_up(avatar)
    transport = ZmqServer("tcp://127.0.0.1:*")
    limits = Limits(max_sessions=max_sessions)
    server = Server(avatar, transport, portraits=_no_portrait, limits=limits)
    thread = threading.Thread(target=server.run, name="af-serve", daemon=True)
    thread.start()
    try:
        yield transport.endpoint
    finally:
        server.drain(0.0)
        thread.join()
        transport.close(LINGER_S)


def _warm_up(avatar: Avatar) -> None:
    """Draw a few blocks of silence: first steps are slow, and nobody should see them."""
    info = avatar.info
    state = avatar.open(torch.full((info.height, info.width, 3), 128, dtype=torch.uint8))
    for _ in range(WARM_BLOCKS):
        _, state = avatar.step(state, torch.zeros(info.frames_per_block * info.samples_per_frame))


def _no_portrait(name: str) -> NDArray[Any]:
    raise PortraitError("The demo sends portraits as pixels.")
