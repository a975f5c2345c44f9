"""The demo's site over a tiny worker, and a page made of a few lines: what a browser would say."""

import asyncio
import json
from contextlib import asynccontextmanager

import aiohttp
import numpy as np
from af_runtime.client import AsyncAvatarClient
from af_runtime.web.addresses import parse_address
from af_runtime.web.frames import HEADER
from af_runtime.web.own_worker import own_worker
from af_runtime.web.site import served
from af_runtime.web.stages import StageClock
from af_runtime.web.studio import Studio


@asynccontextmanager
async def demo(avatar, bind="127.0.0.1:0", token=None):
    """Serve the demo of an avatar; gives the address of its page."""
    stages = StageClock()
    with own_worker(stages.watched(avatar)) as endpoint:
        studio = Studio(lambda: AsyncAvatarClient.connect(endpoint), "toon", stages)
        async with served(studio, parse_address(bind, token)) as there:
            yield there


class FakePage:
    """Speaks with the gateway as the page does; plays at once, unless `is_stuck`."""

    def __init__(self, http, socket):
        self.http, self._socket = http, socket
        self.frames, self.reports, self.is_stuck = [], [], False
        self._changed = asyncio.Event()

    async def say(self, type, **fields):
        await self._socket.send_json({"type": type, **fields})

    async def say_raw(self, data):
        send = self._socket.send_str if isinstance(data, str) else self._socket.send_bytes
        await send(data)

    async def listen(self):
        async for message in self._socket:
            if message.type is aiohttp.WSMsgType.BINARY:
                self.frames.append(read_frame(message.data))
                if not self.is_stuck:
                    await self.say("played", frames=len(self.frames))
            else:
                self.reports.append(json.loads(message.data))
            self._changed.set()

    async def until(self, is_so, timeout_s=20):
        """Wait until something is so, and return it."""
        async with asyncio.timeout(timeout_s):
            while not (value := is_so()):
                self._changed.clear()
                await self._changed.wait()
        return value

    async def report(self, type):
        """Wait for a report and take it, and those before it, away."""
        await self.until(lambda: any(one["type"] == type for one in self.reports))
        while (found := self.reports.pop(0))["type"] != type:
            pass
        return found

    async def start(self, **fields):
        await self.say("start", portrait="iris", **fields)
        return await self.report("ready")


@asynccontextmanager
async def page_of(there):
    """Open a page of a demo."""
    base = f"http://{there.host}:{there.port}"
    async with aiohttp.ClientSession(base) as http, http.ws_connect("/ws") as socket:
        page = FakePage(http, socket)
        listening = asyncio.create_task(page.listen())
        yield page
        listening.cancel()


def read_frame(data):
    """What is in the message of a frame, told from the table in frames.py."""
    kind, has_sound, epoch, number, age_ms, *stages, pack_ms, sent = HEADER.unpack_from(data)
    at = HEADER.size + 1280 * has_sound
    return {
        "kind": kind,
        "epoch": epoch,
        "number": number,
        "sent": sent,
        "age_ms": age_ms,
        "stages": stages,
        "pack_ms": pack_ms,
        "sound": np.frombuffer(data[HEADER.size : at], "<i2") if has_sound else None,
        "picture": data[at:],
    }
