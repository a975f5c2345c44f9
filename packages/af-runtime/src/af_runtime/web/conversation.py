"""One page that is open: takes its commands, keeps its session, tells it what happens."""

import asyncio
import contextlib
import logging

import attrs
from af_core.errors import AvatarForcingError
from af_core.geometry import AUDIO_HZ
from aiohttp import WSMsgType
from aiohttp.web import WebSocketResponse

from af_runtime.arrivals import Arrivals
from af_runtime.client import AsyncAvatarClient, AsyncAvatarStream
from af_runtime.client.values import Queued
from af_runtime.errors import RequestError, ServiceError
from af_runtime.messages.from_server import Format
from af_runtime.web import messages
from af_runtime.web.packing import packer
from af_runtime.web.screen import Screen
from af_runtime.web.studio import Studio
from af_runtime.web.voice import Voice

log = logging.getLogger(__name__)

WINDOW_FRAMES = 12
"""Frames that may wait at the gateway; a page that plays takes them as they come."""

PLACE_S = 600.0
"""How long a page may wait for a place of the worker."""

MOST_WAITING = 250
"""Messages that may wait for the one before them; the microphone's are dropped beyond."""


@attrs.frozen(eq=False)
class _Session:
    """What runs between Start and Stop."""

    client: AsyncAvatarClient
    stream: AsyncAvatarStream
    voice: Voice
    screen: Screen


class Conversation:
    """Serves one page until it closes."""

    def __init__(self, socket: WebSocketResponse, studio: Studio) -> None:
        self._socket, self._studio = socket, studio
        self._session: _Session | None = None
        self._showing: asyncio.Task[None] | None = None
        self._telling: set[asyncio.Task[None]] = set()
        self._waiting: asyncio.Queue[messages.FromPage | bytes] = asyncio.Queue()

    async def run(self) -> None:
        """Take what the page sends; a mistake is answered in words and ends nothing.

        Commands and sound are taken in their order, and may wait for the worker. What was played is
        noted at once: it may be just that which the worker waits for.
        """
        working = asyncio.create_task(self._work())
        try:
            async for message in self._socket:
                if message.type is WSMsgType.BINARY:
                    if self._waiting.qsize() < MOST_WAITING:
                        self._waiting.put_nowait(message.data)
                elif message.type is WSMsgType.TEXT:
                    await self._take(message.data)
        finally:
            working.cancel()
            await asyncio.wait([working])
            await self._stop()

    async def _take(self, text: str) -> None:
        try:
            command = messages.decode(text)
        except RequestError as e:
            await self._tell(problem(e))
            return
        if not isinstance(command, messages.Played):
            self._waiting.put_nowait(command)
        elif self._session is not None:  # a last word of a session that has ended is fine
            self._session.screen.played(command.frames)

    async def _work(self) -> None:
        while True:
            command = await self._waiting.get()
            try:
                if not isinstance(command, bytes):
                    await self._obey(command)
                elif self._session is not None:
                    self._session.voice.hear(command)
            except AvatarForcingError as e:
                await self._tell(problem(e))
            except Exception:
                await self._tell(fault())

    async def _obey(self, command: messages.FromPage) -> None:
        match command:
            case messages.Start():
                await self._start(command)
            case messages.Stop():
                await self._stop()
            case messages.Played():
                pass  # was taken at once
            case messages.Microphone(on=True, sample_rate=sample_rate):
                await self._running.voice.listen(sample_rate)
            case messages.Microphone():
                if self._session is not None:
                    await self._session.voice.rest()
            case messages.Say(speech=name):
                await self._running.voice.say(await self._studio.speech(name))
            case messages.Interrupt():
                epoch = await self._running.voice.interrupt()
                await self._tell(messages.Interrupted(epoch=epoch))

    @property
    def _running(self) -> _Session:
        if self._session is None:
            raise RequestError("Nothing is running; choose a portrait and start.")
        return self._session

    async def _start(self, start: messages.Start) -> None:
        await self._stop()
        client = await self._studio.connect()
        try:
            self._session = await self._open(client, start)
        except BaseException:
            await client.close()
            raise
        await self._tell(_ready(start, client.format))
        self._showing = asyncio.create_task(self._show(self._session))

    async def _open(self, client: AsyncAvatarClient, start: messages.Start) -> _Session:
        what = client.format
        portrait = await self._studio.portrait(start.portrait, what)
        stream = await client.open(
            portrait,
            seed=start.seed,
            late_policy="drop",
            window=WINDOW_FRAMES,
            timeout_s=PLACE_S,
            on_queued=self._queued,
        )
        arrivals = Arrivals()
        pictures = packer(start.codec, what.width, what.height)
        screen = Screen(self._socket, pictures, arrivals, self._studio.stages)
        voice = Voice(stream, arrivals, lambda e: self._tell(problem(e)))
        return _Session(client, stream, voice, screen)

    def _queued(self, queued: Queued) -> None:
        """Tell the page where it stands."""
        place = messages.Queued(position=queued.position, retry_after_s=queued.retry_after_s)
        task = asyncio.ensure_future(self._tell(place))
        self._telling.add(task)
        task.add_done_callback(self._telling.discard)

    async def _show(self, session: _Session) -> None:
        """Show the session to its end, whatever ends it."""
        try:
            await session.screen.show(session.stream)
        except AvatarForcingError as e:
            await self._tell(problem(e, fatal=True))
        except ConnectionError:
            return  # the page has gone
        except Exception:
            await self._tell(fault())
        await session.voice.stop()
        await self._tell(messages.Ended())

    async def _stop(self) -> None:
        """End the session, if one runs."""
        session, self._session = self._session, None
        showing, self._showing = self._showing, None
        if showing is not None:
            showing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await showing
        if session is not None:
            await session.voice.stop()
            session.stream.close()
            await session.client.close()

    async def _tell(self, report: messages.Report) -> None:
        with contextlib.suppress(ConnectionError):
            if not self._socket.closed:
                await self._socket.send_str(messages.encode(report))


def problem(error: AvatarForcingError, *, fatal: bool = False) -> messages.Problem:
    """Return what a page is told of an error."""
    code = error.code if isinstance(error, ServiceError) else "request"
    return messages.Problem(code=code, message=str(error), fatal=fatal)


def fault() -> messages.Problem:
    """Write the exception that is handled to the terminal; return what a page is told of it."""
    log.exception("the demo failed")
    text = "The demo failed; its terminal says how. Start again."
    return messages.Problem(code="internal", message=text, fatal=True)


def _ready(start: messages.Start, what: Format) -> messages.Ready:
    return messages.Ready(
        preset=what.preset,
        width=what.width,
        height=what.height,
        seed=start.seed,
        codec=start.codec,
        codec_string=messages.CODEC_STRING if start.codec == "h264" else "",
        block_ms=what.block_samples * 1e3 / AUDIO_HZ,
        lookahead_ms=what.lookahead_samples * 1e3 / AUDIO_HZ,
    )
