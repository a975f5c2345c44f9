"""The client that waits: for scripts, threads and tests."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from af_runtime.client.link import Link
from af_runtime.client.opening import DEFAULT_ENDPOINT, Portrait, connected, open_message
from af_runtime.client.stream import StreamCore
from af_runtime.client.values import Event, MediaFrame, Queued
from af_runtime.messages.fields import LatePolicy, Pacing
from af_runtime.messages.from_server import Format

TIMEOUT_S = 5.0
OPEN_TIMEOUT_S = 60.0
"""The worker may be busy with blocks of other sessions when it is asked."""

WINDOW = 50
"""Frames that may wait to be taken."""


class AvatarClient:
    """A connection to a stream worker. Use it as a context manager, or call ``close``."""

    def __init__(
        self,
        endpoint: str = DEFAULT_ENDPOINT,
        *,
        key: Path | None = None,
        server_key: Path | None = None,
        timeout_s: float = TIMEOUT_S,
        link: Link | None = None,
    ) -> None:
        """Connect; raises `ConnectionLostError` if no worker answers in time.

        ``key`` is the file with this client's secret key, ``server_key`` the one with the worker's
        public key, both made by ``af-runtime keys new``.
        """
        self._link = link or connected(endpoint, key, server_key)
        if not self._link.wait_for(self._is_answered, timeout_s):
            self.close()
            raise self._link.lost()
        if self._link.error is not None:
            self.close()
            raise self._link.error

    @property
    def link(self) -> Link:
        """The connection, for what is no matter of a single stream."""
        return self._link

    @property
    def format(self) -> Format:
        """What the avatar takes and gives."""
        assert self._link.hello is not None
        return self._link.hello.format

    @property
    def server(self) -> str:
        """Name and version of the worker's program."""
        assert self._link.hello is not None
        return self._link.hello.server

    def open(
        self,
        portrait: Portrait,
        *,
        seed: int = 0,
        pacing: Pacing = "realtime",
        late_policy: LatePolicy = "repeat",
        window: int = WINDOW,
        timeout_s: float = OPEN_TIMEOUT_S,
        on_queued: Callable[[Queued], None] = lambda queued: None,
    ) -> "AvatarStream":
        """Begin a session; raises `ServiceError` if the worker refuses it.

        If all its places are taken and it lets clients wait, ``on_queued`` hears where in the line,
        whenever that changes; no place within ``timeout_s`` is ``admit.full``.

        ``pacing`` is ``realtime`` for 25 frames a second, ``fast`` for frames as soon as drawn.
        ``late_policy`` is what a slow machine costs: ``repeat`` shows the last picture again,
        ``catch_up`` too and leaves out pauses of the speech until the delay is what it was,
        ``drop`` sends sound without its picture, ``stretch`` lets all that follows be later
        (docs/operations.md).
        ``window`` is how many frames may wait to be taken.
        """
        core = self._link.stream(window=window)
        options = {"seed": seed, "pacing": pacing, "late_policy": late_policy}
        core.open(*open_message(core.name, portrait, self.format, video_limit=window, **options))
        self._wait_for_place(core, timeout_s, on_queued)
        if core.error is not None and not core.is_open:  # what fails later, frames tell
            raise core.error
        return AvatarStream(self._link, core)

    def _wait_for_place(
        self, core: StreamCore, timeout_s: float, on_queued: Callable[[Queued], None]
    ) -> None:
        told: list[Queued] = []
        until = time.monotonic() + timeout_s

        def is_decided() -> bool:
            return core.is_open or core.is_closed

        def is_news() -> bool:
            return is_decided() or (core.queued is not None and [core.queued] != told[-1:])

        while not is_decided():
            if not self._link.wait_for(is_news, until - time.monotonic()):
                raise core.waiting_error(timeout_s) or self._link.lost()
            if core.queued is not None and not is_decided():
                told.append(core.queued)
                on_queued(core.queued)

    def ping(self, timeout_s: float = TIMEOUT_S) -> float:
        """Return the seconds of a round trip to the worker."""
        self._link.round_trip_s = None
        self._link.ping()
        if not self._link.wait_for(lambda: self._link.round_trip_s is not None, timeout_s):
            raise self._link.lost()
        assert self._link.round_trip_s is not None
        return self._link.round_trip_s

    def close(self) -> None:
        """End the connection; sessions that still run are ended by the worker."""
        self._link.close()

    def __enter__(self) -> "AvatarClient":
        """Return the client."""
        return self

    def __exit__(self, *error: object) -> None:
        """Close."""
        self.close()

    def _is_answered(self) -> bool:
        return self._link.hello is not None or self._link.error is not None


class AvatarStream:
    """One session: push speech, iterate over frames. Different threads may do the two."""

    def __init__(self, link: Link, core: StreamCore) -> None:
        self._link, self._core = link, core

    @property
    def name(self) -> str:
        """Name of the session at the worker."""
        return self._core.name

    @property
    def epoch(self) -> int:
        """Interruptions so far."""
        return self._core.epoch

    def push_audio(self, pcm: NDArray[np.float32] | NDArray[np.int16], sample_rate: int) -> None:
        """Say something: mono [n], any n, float32 in [-1, 1] or int16. Waits while out of credit.

        A chunk with which a segment begins may have any rate; those that follow have the same.
        """
        self._core.push(pcm, sample_rate)
        self._wait_until_sent()

    def end_segment(self) -> int:
        """End the utterance and return its number; `SegmentFinished` comes with its last frame."""
        self._core.end_speech()
        self._wait_until_sent()
        return self._core.end_segment()

    def interrupt(self, mode: Literal["now", "block"] = "now") -> int:
        """Stop speaking; return the new epoch. No frame of an older one comes any more."""
        return self._core.interrupt(mode)

    def update(self, *, late_policy: LatePolicy) -> None:
        """Change what the worker does about late frames."""
        self._core.update(late_policy)

    def finish(self) -> None:
        """Say that no more speech comes; the iterator ends after the last frame."""
        self._core.end_speech()
        self._wait_until_sent()
        self._core.close("drain")

    def close(self) -> None:
        """End the session now."""
        self._core.close("abort")
        self._link.forget(self._core)

    def events(self) -> list[Event]:
        """Return what has happened since the last call, up to the frame that is next."""
        return self._core.take_events()

    def next_frame(self, timeout_s: float | None = None) -> MediaFrame | None:
        """Return the next frame; None after the timeout, and when the session has ended."""
        taken: list[MediaFrame] = []

        def is_there() -> bool:
            frame = self._core.take_frame()
            if frame is not None:
                taken.append(frame)
            return frame is not None or self._core.is_closed

        self._link.wait_for(is_there, timeout_s)
        if not taken and self._core.error is not None:
            raise self._core.error
        return taken[0] if taken else None

    def __iter__(self) -> Iterator[MediaFrame]:
        """Yield frames until the session has ended; raises what ended it, if it failed."""
        while (frame := self.next_frame()) is not None:
            yield frame

    def __enter__(self) -> "AvatarStream":
        """Return the stream."""
        return self

    def __exit__(self, *error: object) -> None:
        """End the session, if it has not ended."""
        self.close()

    def _wait_until_sent(self) -> None:
        self._link.wait_for(lambda: self._core.pump() or self._core.is_closed)
        if self._core.error is not None:
            raise self._core.error
