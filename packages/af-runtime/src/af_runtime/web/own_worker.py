"""A stream worker in this process, for a demo that was not told of another."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from af_core.pipeline import Avatar

from af_runtime.server import Limits
from af_runtime.service import ServiceOptions, running

SESSIONS = 2
QUEUE = 8
"""Further pages that may wait for a place."""


@contextmanager
def own_worker(avatar: Avatar) -> Iterator[str]:
    """Serve an avatar on a free port of loopback until the block ends; gives the endpoint."""
    limits = Limits(max_sessions=SESSIONS, queue=QUEUE)
    options = ServiceOptions(bind="tcp://127.0.0.1:*", health=None, limits=limits)
    with running(lambda: avatar, options) as server:
        thread = threading.Thread(target=server.run, name="af-serve", daemon=True)
        thread.start()
        try:
            yield server.endpoint
        finally:
            server.drain(0.0)
            thread.join()
