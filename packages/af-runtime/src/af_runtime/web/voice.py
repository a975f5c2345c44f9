"""What the avatar is given to say: a microphone, or a sound that was brought. One at a time."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import numpy as np
from af_core.errors import AvatarForcingError
from af_core.geometry import AUDIO_HZ
from numpy.typing import NDArray

from af_runtime.arrivals import Arrivals
from af_runtime.client import AsyncAvatarStream
from af_runtime.web.gate import Gate

PIECE_S = 0.04
LEAD_S = 0.12
"""How much earlier than in real time a brought sound is handed over: no gap if a task is late."""

MOST_WAITING = 250
"""Pieces of the microphone that may wait; older ones go."""

Sound = NDArray[np.float32]


class Voice:
    """Speaks through one stream. ``on_error`` hears what ended a source before its end."""

    def __init__(
        self,
        stream: AsyncAvatarStream,
        arrivals: Arrivals,
        on_error: Callable[[AvatarForcingError], Awaitable[None]],
    ) -> None:
        self._stream, self._arrivals, self._on_error = stream, arrivals, on_error
        self._pieces: asyncio.Queue[Sound] = asyncio.Queue()
        self._gate: Gate | None = None
        self._source: asyncio.Task[None] | None = None
        self._is_speaking = False

    async def listen(self, sample_rate: int) -> None:
        """Speak what `hear` brings, from now on."""
        await self.rest()
        self._pieces = asyncio.Queue()
        self._gate = Gate(sample_rate)
        self._begin(self._listen())

    def hear(self, samples: bytes) -> None:
        """Take int16 of the microphone, little-endian; nothing happens if it is not listened to."""
        if self._gate is None or len(samples) % 2:
            return
        if self._pieces.qsize() >= MOST_WAITING:
            self._pieces.get_nowait()
        piece = np.frombuffer(samples, "<i2").astype(np.float32)
        self._pieces.put_nowait(piece / np.float32(32768))

    async def say(self, speech: Sound) -> None:
        """Speak float32 [n] at 16 kHz, in real time."""
        await self.rest()
        self._begin(self._say(speech))

    async def rest(self) -> None:
        """Let the utterance end here, and take no more."""
        await self._halt()
        self._gate = None
        if self._is_speaking:
            await self._end()

    async def interrupt(self) -> int:
        """Stop speaking now; the microphone stays on. Return the new epoch."""
        if self._gate is None:
            await self._halt()
        else:
            self._gate = Gate(self._gate.sample_rate)
        self._is_speaking = False
        return self._stream.interrupt("now")

    async def stop(self) -> None:
        """Take nothing more; the stream is at its end."""
        self._gate = None
        await self._halt()

    def _begin(self, source: Coroutine[Any, Any, None]) -> None:
        self._source = asyncio.create_task(self._guarded(source))

    async def _halt(self) -> None:
        source, self._source = self._source, None
        if source is not None:
            source.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await source

    async def _guarded(self, source: Coroutine[Any, Any, None]) -> None:
        try:
            await source
        except AvatarForcingError as e:
            await self._on_error(e)

    async def _listen(self) -> None:
        while self._gate is not None:
            piece = await self._pieces.get()
            self._gate, through, has_ended = self._gate.hear(piece)
            if len(through):
                await self._push(through, self._gate.sample_rate)
            if has_ended:
                await self._end()

    async def _say(self, speech: Sound) -> None:
        clock = asyncio.get_running_loop().time
        began, size = clock(), round(PIECE_S * AUDIO_HZ)
        for start in range(0, len(speech), size):
            await asyncio.sleep(began + start / AUDIO_HZ - LEAD_S - clock())
            await self._push(speech[start : start + size], AUDIO_HZ)
        await self._end()

    async def _push(self, sound: Sound, sample_rate: int) -> None:
        self._is_speaking = True
        now_s = asyncio.get_running_loop().time()
        self._arrivals.heard(self._stream.segment, len(sound) / sample_rate, now_s)
        await self._stream.push_audio(sound, sample_rate)

    async def _end(self) -> None:
        self._is_speaking = False
        await self._stream.end_segment()
