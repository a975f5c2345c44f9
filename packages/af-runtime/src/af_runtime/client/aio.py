"""The client for asyncio: the same connection, awaited."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from af_runtime.client.link import Link
from af_runtime.client.opening import DEFAULT_ENDPOINT, Portrait, connected, open_message
from af_runtime.client.stream import StreamCore
from af_runtime.client.sync import OPEN_TIMEOUT_S, TIMEOUT_S, WINDOW
from af_runtime.client.values import Event, MediaFrame, Queued
from af_runtime.messages.fields import LatePolicy, Pacing
from af_runtime.messages.from_server import Format


class AsyncAvatarClient:
    """A connection to a stream worker, made by ``await AsyncAvatarClient.connect()``."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._changes = _Changes(link)

    @classmethod
    async def connect(
        cls,
        endpoint: str = DEFAULT_ENDPOINT,
        *,
        key: Path | None = None,
        server_key: Path | None = None,
        timeout_s: float = TIMEOUT_S,
        link: Link | None = None,
    ) -> "AsyncAvatarClient":
        """Connect; raises `ConnectionLostError` if no worker answers in time.

        ``key`` is the file with this client's secret key, ``server_key`` the one with the worker's
        public key, both made by ``af-runtime keys new``.
        """
        client = cls(link or connected(endpoint, key, server_key))
        made = client._link
        try:
            await client._changes.until(lambda: bool(made.hello or made.error), timeout_s)
        except TimeoutError:
            await client.close()
            raise made.lost() from None
        if made.error is not None:
            await client.close()
            raise made.error
        return client

    @property
    def format(self) -> Format:
        """What the avatar takes and gives."""
        assert self._link.hello is not None
        return self._link.hello.format

    async def open(
        self,
        portrait: Portrait,
        *,
        seed: int = 0,
        pacing: Pacing = "realtime",
        late_policy: LatePolicy = "repeat",
        window: int = WINDOW,
        timeout_s: float = OPEN_TIMEOUT_S,
        on_queued: Callable[[Queued], None] = lambda queued: None,
    ) -> "AsyncAvatarStream":
        """Begin a session, see `AvatarClient.open`."""
        core = self._link.stream(window=window)
        options = {"seed": seed, "pacing": pacing, "late_policy": late_policy}
        core.open(*open_message(core.name, portrait, self.format, video_limit=window, **options))
        told: list[Queued] = []

        def is_decided() -> bool:
            if core.queued is not None and core.queued not in told[-1:]:
                told.append(core.queued)
                on_queued(core.queued)
            return core.is_open or core.is_closed

        try:
            await self._changes.until(is_decided, timeout_s)
        except TimeoutError:
            raise core.waiting_error(timeout_s) or self._link.lost() from None
        if core.error is not None and not core.is_open:  # what fails later, frames tell
            raise core.error
        return AsyncAvatarStream(self._link, core, self._changes)

    async def close(self) -> None:
        """End the connection; sessions that still run are ended by the worker."""
        await asyncio.to_thread(self._link.close)

    async def __aenter__(self) -> "AsyncAvatarClient":
        """Return the client."""
        return self

    async def __aexit__(self, *error: object) -> None:
        """Close."""
        await self.close()


class AsyncAvatarStream:
    """One session: push speech in one task, iterate over frames in another."""

    def __init__(self, link: Link, core: StreamCore, changes: "_Changes") -> None:
        self._link, self._core, self._changes = link, core, changes

    @property
    def name(self) -> str:
        """Name of the session at the worker."""
        return self._core.name

    @property
    def epoch(self) -> int:
        """Interruptions so far."""
        return self._core.epoch

    @property
    def segment(self) -> int:
        """Number of the utterance that is being said, or of the next one."""
        return self._core.segment

    async def push_audio(
        self, pcm: NDArray[np.float32] | NDArray[np.int16], sample_rate: int
    ) -> None:
        """Say something, see `AvatarStream.push_audio`."""
        self._core.push(pcm, sample_rate)
        await self._sent()

    async def end_segment(self) -> int:
        """End the utterance and return its number."""
        self._core.end_speech()
        await self._sent()
        return self._core.end_segment()

    def interrupt(self, mode: Literal["now", "block"] = "now") -> int:
        """Stop speaking; return the new epoch. No frame of an older one comes any more."""
        return self._core.interrupt(mode)

    def update(self, *, late_policy: LatePolicy) -> None:
        """Change what the worker does about late frames."""
        self._core.update(late_policy)

    async def finish(self) -> None:
        """Say that no more speech comes; the iterator ends after the last frame."""
        self._core.end_speech()
        await self._sent()
        self._core.close("drain")

    def close(self) -> None:
        """End the session now."""
        self._core.close("abort")
        self._link.forget(self._core)

    def events(self) -> list[Event]:
        """Return what has happened since the last call, up to the frame that is next."""
        return self._core.take_events()

    async def __aiter__(self) -> AsyncIterator[MediaFrame]:
        """Yield frames until the session has ended; raises what ended it, if it failed."""
        taken: list[MediaFrame] = []

        def is_there() -> bool:
            if not taken and (frame := self._core.take_frame()) is not None:
                taken.append(frame)
            return bool(taken) or self._core.is_closed

        while True:
            await self._changes.until(is_there)
            if not taken:
                break
            yield taken.pop()
        if self._core.error is not None:
            raise self._core.error

    async def _sent(self) -> None:
        await self._changes.until(lambda: self._core.pump() or self._core.is_closed)
        if self._core.error is not None:
            raise self._core.error


class _Changes:
    """Lets any number of tasks wait until something is so, told by the connection's thread."""

    def __init__(self, link: Link) -> None:
        self._loop = asyncio.get_running_loop()
        self._waiting: set[asyncio.Future[None]] = set()
        link.listen(self._tell)

    async def until(self, is_so: Callable[[], bool], timeout_s: float | None = None) -> None:
        """Wait until something is so; raises TimeoutError."""
        async with asyncio.timeout(timeout_s):
            while True:
                change: asyncio.Future[None] = self._loop.create_future()
                self._waiting.add(change)  # before looking: no change is missed
                try:
                    if is_so():
                        return
                    await change
                finally:
                    self._waiting.discard(change)

    def _tell(self) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        for change in self._waiting:
            if not change.done():
                change.set_result(None)
