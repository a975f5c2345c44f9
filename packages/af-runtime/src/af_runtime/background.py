"""Encode on a second thread, so that the model computes while the last block is being written."""

import queue
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from af_runtime.media import Mp4Writer

QUEUE_JOBS = 16
"""Blocks of work that may wait. A slow encoder then holds the model back; memory stays bounded."""


class BackgroundWriter:
    """An `Mp4Writer` run by a thread of its own. Calls return at once unless the queue is full.

    A failure of the encoder is raised by the next call.
    """

    def __init__(self, writer: Mp4Writer, *, queue_jobs: int = QUEUE_JOBS) -> None:
        self._writer = writer
        self._jobs: queue.Queue[Callable[[], object] | None] = queue.Queue(queue_jobs)
        self._error: BaseException | None = None
        self._is_closed = False
        self.busy_s = 0.0
        """Seconds the encoder has worked."""
        self._thread = threading.Thread(target=self._run, name="af-encode", daemon=True)
        self._thread.start()

    def add_audio(self, samples: NDArray[np.float32]) -> None:
        """Hand over sound, float32 ``[channels, n]``; the array must not be changed later."""
        self._put(partial(self._writer.add_audio, samples))

    def add_frames(self, frames: NDArray[np.uint8]) -> None:
        """Hand over frames, uint8 RGB ``[n, H, W, 3]``; the array must not be changed later."""
        self._put(partial(self._writer.add_frames, frames))

    @property
    def num_frames(self) -> int:
        """Frames encoded so far."""
        return self._writer.num_frames

    def drain(self) -> None:
        """Wait until everything handed over is encoded; nothing can be added afterwards."""
        self._stop()
        self._raise_error()

    def finish(self) -> Path:
        """Wait for all that was handed over, then complete the file and return its path."""
        self.drain()
        return self._writer.finish()

    def discard(self) -> None:
        """Stop, and leave no file behind."""
        self._error = self._error or RuntimeError("discarded")
        self._stop()
        self._writer.discard()

    def _put(self, job: Callable[[], object]) -> None:
        self._raise_error()
        if self._is_closed:
            raise RuntimeError(
                "This writer was drained: it takes no more sound and no more frames."
            )
        self._jobs.put(job)

    def _stop(self) -> None:
        self._is_closed = True
        if self._thread.is_alive():
            self._jobs.put(None)
            self._thread.join()

    def _raise_error(self) -> None:
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            if self._error is None:  # after a failure the queue is still emptied: nobody blocks
                began = time.perf_counter()
                try:
                    job()
                except BaseException as e:
                    self._error = e
                self.busy_s += time.perf_counter() - began
