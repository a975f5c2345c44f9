"""Tells how long the garbage collector holds everything up, generation by generation."""

import gc
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any


@contextmanager
def noting_pauses(note: Callable[[int, float], None]) -> Iterator[None]:
    """Call ``note(generation, seconds)`` after every collection until the block ends."""
    began = 0.0

    def watch(phase: str, info: Mapping[str, Any]) -> None:
        nonlocal began
        if phase == "start":
            began = time.perf_counter()
        else:
            note(info["generation"], time.perf_counter() - began)

    gc.callbacks.append(watch)
    try:
        yield
    finally:
        gc.callbacks.remove(watch)
