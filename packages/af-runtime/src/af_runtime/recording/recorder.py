"""Writes recordings beside the sessions of a worker, on a thread of its own.

A session never waits for a disk: it hands its records over and goes on. When the disk is full, or
too slow, the recording ends where it is, with one notice; the session does not hear of it.
"""

import datetime
import itertools
import logging
import queue
import secrets
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from af_runtime.errors import RequestError
from af_runtime.messages.from_client import Open
from af_runtime.recording.framing import RecordWriter
from af_runtime.recording.origin import Origin
from af_runtime.recording.records import Drawn, End, Head, Record, digest, encoded

log = logging.getLogger(__name__)

MOST_WAITING_BYTES = 64 * 2**20
"""Bytes of records that may wait for the disk; beyond them a recording ends."""

OVERHEAD_BYTES = 512
"""What a record without buffers is counted as."""

Outcome = Literal["complete", "disk", "slow"]
"""How a recording has ended: with its session, or before it."""


def made_folder(folder: Path) -> Path:
    """Make a folder for recordings, for its owner only; raises `RequestError` if that fails."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        probe = folder / f".{secrets.token_hex(4)}.probe"
        probe.touch()
        probe.unlink()
    except OSError as e:
        raise RequestError(f"Nothing can be recorded in {folder}: {e.strerror}.") from e
    return folder


class Recorder:
    """Makes the recordings of one worker in a folder. Any thread may call it."""

    def __init__(
        self,
        folder: Path,
        origin: Origin,
        *,
        with_pixels: bool = False,
        on_bytes: Callable[[int], None] = lambda count: None,
        on_end: Callable[[Outcome], None] = lambda outcome: None,
    ) -> None:
        self._folder, self._origin, self.with_pixels = made_folder(folder), origin, with_pixels
        self.on_bytes, self.on_end = on_bytes, on_end
        self._numbers = itertools.count()
        self._jobs: queue.SimpleQueue[tuple[Tape, Any, Any] | None] = queue.SimpleQueue()
        self._waiting_bytes, self._lock = 0, threading.Lock()
        self._thread = threading.Thread(target=self._run, name="af-record", daemon=True)
        self._thread.start()

    def begin(self, opening: Open, portrait: NDArray[np.uint8]) -> "Tape":
        """Return the tape of a session that opens with this message and portrait [H, W, 3]."""
        now = datetime.datetime.now(datetime.UTC)
        name = f"{now:%Y%m%dT%H%M%S}-{next(self._numbers):04d}-{secrets.token_hex(3)}.afrec"
        tape = Tape(self, self._folder / name)
        head = Head(
            utc=now.isoformat(timespec="milliseconds"),
            session=opening.session,
            pipeline=self._origin.pipeline,
            overrides=dict(self._origin.overrides),
            config=dict(self._origin.config),
            config_hash=self._origin.config_hash,
            machine=dict(self._origin.machine),
            seed=opening.seed,
            pacing=opening.pacing,
            late_policy=opening.late_policy,
            has_pixels=self.with_pixels,
        )
        tape.add(head, portrait=portrait)
        return tape

    def close(self) -> None:
        """Write what waits, and end the thread."""
        self._jobs.put(None)
        self._thread.join()

    def put(self, tape: "Tape", record: Record, arrays: Mapping[str, NDArray[Any]]) -> bool:
        """Let a record be written; False if too many wait for the disk."""
        size = _size(arrays)
        with self._lock:
            if self._waiting_bytes + size > MOST_WAITING_BYTES:
                return False
            self._waiting_bytes += size
        self._jobs.put((tape, record, arrays))
        return True

    def cut(self, tape: "Tape") -> None:
        """End a tape that could not be written to, after what waits."""
        self._jobs.put((tape, None, {}))

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            tape, record, arrays = job
            tape.write(record, arrays)
            with self._lock:
                self._waiting_bytes -= _size(arrays) if record is not None else 0


class Tape:
    """The recording of one session. `add` is called by one thread, `write` by the recorder's."""

    def __init__(self, recorder: Recorder, path: Path) -> None:
        self._recorder, self.path = recorder, path
        self._writer: RecordWriter | None = None
        self._is_begun = self._is_over = False

    def add(self, record: Record, **arrays: NDArray[Any]) -> None:
        """Add a record; returns at once. The arrays must not be changed afterwards."""
        if self._is_over:
            return
        if not self._recorder.put(self, record, arrays):
            self._is_over = True
            self._recorder.cut(self)
        self._is_over |= isinstance(record, End)

    def write(self, record: Record | None, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Write a record; None ends the file, as nothing more could be kept in time."""
        if self._is_begun and self._writer is None:
            return
        if record is None:
            self._finish("slow", "the disk is too slow")
            return
        try:
            self._write(record, arrays)
        except OSError as e:
            self._finish("disk", e.strerror or str(e))

    def _write(self, record: Record, arrays: Mapping[str, NDArray[Any]]) -> None:
        if not self._is_begun:
            self._is_begun = True
            self._writer = RecordWriter(self.path)
        assert self._writer is not None
        if isinstance(record, Drawn):
            record, arrays = self._with_digests(record, arrays)
        before = self._writer.num_bytes
        self._writer.add(*encoded(record, arrays))
        self._recorder.on_bytes(self._writer.num_bytes - before)
        if isinstance(record, End):
            self._finish("complete", "")

    def _with_digests(
        self, record: Drawn, arrays: Mapping[str, NDArray[Any]]
    ) -> tuple[Drawn, Mapping[str, NDArray[Any]]]:
        digests = b"".join(map(digest, arrays["video"]))
        kept = arrays if self._recorder.with_pixels else {}
        return msgspec.structs.replace(record, digests=digests), kept

    def _finish(self, outcome: Outcome, why: str) -> None:
        self._is_over = True
        writer, self._writer = self._writer, None
        try:
            if writer is not None:
                writer.close()
        except OSError as e:
            outcome, why = "disk", e.strerror or str(e)
        if outcome != "complete":
            log.warning(
                "the recording %s has ended before its session: %s; the session goes on",
                self.path.name,
                why,
            )
        self._recorder.on_end(outcome)


def _size(arrays: Mapping[str, NDArray[Any]]) -> int:
    return OVERHEAD_BYTES + sum(array.nbytes for array in arrays.values())
