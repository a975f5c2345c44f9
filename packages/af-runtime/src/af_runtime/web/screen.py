"""Sends a stream's frames to one page: packed, numbered, and no more than it has room for."""

import asyncio
import math
import time
from collections import deque

from af_core.geometry import AUDIO_HZ, SAMPLES_PER_FRAME
from aiohttp.web import WebSocketResponse

from af_runtime.arrivals import Arrivals
from af_runtime.client import (
    AsyncAvatarStream,
    BlockDrawn,
    Event,
    MediaFrame,
    SegmentFinished,
    SegmentStarted,
    Warned,
)
from af_runtime.web import messages
from af_runtime.web.frames import Parcel, encode_frame
from af_runtime.web.packing import Packer
from af_runtime.web.stages import StageClock

ROOM_FRAMES = 25
"""Frames that a page may have that it has not played. Then the worker gets no credit either."""


class Screen:
    """The page as a stream sees it."""

    def __init__(
        self, socket: WebSocketResponse, packer: Packer, arrivals: Arrivals, stages: StageClock
    ) -> None:
        self._socket, self._packer = socket, packer
        self._arrivals, self._stages = arrivals, stages
        self._sent = self._played = 0
        self._room = asyncio.Event()
        self._room.set()

    def played(self, frames: int) -> None:
        """The page is done with so many frames in all."""
        self._played = max(self._played, min(frames, self._sent))
        self._measure()

    async def show(self, stream: AsyncAvatarStream) -> None:
        """Send frames and events until the stream ends; a frame is taken when there is room."""
        frames, events = aiter(stream), deque[Event]()
        while True:
            await self._room.wait()
            frame = await anext(frames, None)
            events.extend(stream.events())
            while events and (frame is None or is_due(events[0], frame)):
                await self._socket.send_str(messages.encode(report(events.popleft())))
            if frame is None:
                return
            await self._send(frame)

    async def _send(self, frame: MediaFrame) -> None:
        began = time.perf_counter()
        picture = await asyncio.to_thread(self._packer.pack, frame.video)
        pack_ms = (time.perf_counter() - began) * 1e3
        self._sent += 1
        self._measure()
        parcel = Parcel(
            picture=picture,
            sound=None if frame.idle else frame.audio,
            epoch=frame.epoch,
            number=frame.pts // SAMPLES_PER_FRAME,
            sent=self._sent,
            age_ms=self._age_ms(frame),
            pack_ms=pack_ms,
            stages=self._stages.latest,
        )
        await self._socket.send_bytes(encode_frame(parcel))

    def _measure(self) -> None:
        if self._sent - self._played < ROOM_FRAMES:
            self._room.set()
        else:
            self._room.clear()

    def _age_ms(self, frame: MediaFrame) -> float:
        if frame.segment is None:
            return math.nan
        now_s = asyncio.get_running_loop().time()
        seconds = (frame.num_samples + frame.num_skipped) / AUDIO_HZ
        age_s = self._arrivals.shown(frame.segment, seconds, now_s)
        return math.nan if age_s is None else age_s * 1e3


def is_due(event: Event, frame: MediaFrame) -> bool:
    """Return whether an event is to be told before a frame; the stream knows of it earlier."""
    match event:
        case SegmentStarted():
            return frame.pts >= event.pts or frame.epoch > event.epoch
        case SegmentFinished():
            return frame.segment != event.segment
        case Warned() | BlockDrawn():
            return True


def report(event: Event) -> messages.Report:
    """Return what a page is told of an event."""
    match event:
        case SegmentStarted():
            return messages.Started(segment=event.segment)
        case SegmentFinished():
            return messages.Finished(segment=event.segment, interrupted=event.interrupted)
        case Warned():
            return messages.Warned(code=event.code, message=event.message)
        case BlockDrawn():
            raise AssertionError("the gateway does not ask workers for it")
