"""The addresses of the page: itself, its files, portraits, uploads, and the line to the gateway."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from weakref import WeakSet

import attrs
import msgspec
from af_core.errors import AvatarForcingError
from aiohttp import WSCloseCode, web

from af_runtime.errors import UnavailableError
from af_runtime.web.addresses import Address
from af_runtime.web.conversation import Conversation
from af_runtime.web.gatekeeper import add_headers, gatekeeper
from af_runtime.web.studio import Brought, Studio

STATIC = Path(__file__).parent / "static"

MOST_UPLOAD = 32 * 2**20
MOST_MESSAGE = 2**20
HEARTBEAT_S = 10.0


class Site:
    """Serves one studio to any number of pages."""

    def __init__(self, studio: Studio, address: Address) -> None:
        self._studio = studio
        self._sockets: WeakSet[web.WebSocketResponse] = WeakSet()
        guards = [gatekeeper(address)]
        self.app = web.Application(middlewares=guards, client_max_size=MOST_UPLOAD)
        self.app.on_response_prepare.append(add_headers)
        self.app.on_shutdown.append(self._close_all)
        self.app.add_routes(
            [
                web.get("/", self._page),
                web.static("/static", STATIC),
                web.get("/api/gallery", self._gallery),
                web.get("/portraits/{name}", self._portrait),
                web.post("/api/portraits", self._bring_portrait),
                web.post("/api/speech", self._bring_speech),
                web.get("/ws", self._converse),
            ]
        )

    async def _page(self, request: web.Request) -> web.FileResponse:
        return web.FileResponse(STATIC / "index.html")

    async def _gallery(self, request: web.Request) -> web.Response:
        return _json({"portraits": list(self._studio.portraits)})

    async def _portrait(self, request: web.Request) -> web.FileResponse:
        path = self._studio.portraits.get(request.match_info["name"])
        if path is None:
            raise web.HTTPNotFound(text="There is no such portrait.\n")
        return web.FileResponse(path, headers={"Cache-Control": "max-age=3600"})

    async def _bring_portrait(self, request: web.Request) -> web.Response:
        return await _answered(self._bring_picture(await _body(request)))

    async def _bring_picture(self, data: bytes) -> Brought:
        client = await self._studio.connect()
        try:
            return await self._studio.bring_portrait(data, client.format)
        finally:
            await client.close()

    async def _bring_speech(self, request: web.Request) -> web.Response:
        name = request.query.get("name", "")[:80] or "This file"
        return await _answered(self._studio.bring_speech(await _body(request), name))

    async def _converse(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(
            heartbeat=HEARTBEAT_S, max_msg_size=MOST_MESSAGE, compress=False
        )
        await socket.prepare(request)
        self._sockets.add(socket)
        await Conversation(socket, self._studio).run()
        return socket

    async def _close_all(self, app: web.Application) -> None:
        for socket in list(self._sockets):
            await socket.close(code=WSCloseCode.GOING_AWAY, message=b"the demo was stopped")


@asynccontextmanager
async def served(studio: Studio, address: Address) -> AsyncIterator[Address]:
    """Serve while the block runs; gives the address with the port that was bound."""
    runner = web.AppRunner(Site(studio, address).app, access_log=None, shutdown_timeout=2.0)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, address.host, address.port).start()
        except OSError as e:
            raise UnavailableError(
                f"The page cannot be served at {address.host}:{address.port}: {e.strerror or e}. "
                "Is another demo running? --bind names another port."
            ) from e
        yield attrs.evolve(address, port=runner.addresses[0][1])
    finally:
        await runner.cleanup()


async def _body(request: web.Request) -> bytes:
    try:
        return await request.read()
    except web.HTTPRequestEntityTooLarge:
        most = MOST_UPLOAD // 2**20
        raise web.HTTPRequestEntityTooLarge(
            MOST_UPLOAD, request.content_length or 0, text=f"Files of up to {most} MB are taken."
        ) from None


async def _answered(bringing: Any) -> web.Response:
    """Return what was brought, or why it could not be."""
    try:
        brought: Brought = await bringing
    except AvatarForcingError as e:
        return _json({"error": str(e)}, status=422)
    return _json({"id": brought.id, "note": brought.note, "seconds": brought.seconds})


def _json(value: Any, status: int = 200) -> web.Response:
    body = msgspec.json.encode(value)
    return web.Response(body=body, status=status, content_type="application/json")
