"""``af-runtime demo``: a page on this machine to talk through an avatar."""

import asyncio
import contextlib
import signal
import sys
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from af_runtime.commands.connecting import Key, ServerKey
from af_runtime.commands.threads import Threads, use_threads
from af_runtime.errors import UnavailableError

if TYPE_CHECKING:
    from af_runtime.web.addresses import Address
    from af_runtime.web.studio import Studio


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command("demo")(demo)


def demo(
    preset: Annotated[str, typer.Option(help="A preset, or a pipeline file.")] = "toon",
    bind: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Where the page is served.")
    ] = "127.0.0.1:7860",
    connect: Annotated[
        str | None,
        typer.Option(metavar="ENDPOINT", help="A stream worker to use, in place of an own one."),
    ] = None,
    key: Key = None,
    server_key: ServerKey = None,
    open: Annotated[bool, typer.Option(help="Open the page in a browser.")] = True,
    token: Annotated[
        str | None,
        typer.Option(metavar="auto|SECRET", help="Needed beyond loopback: part of the link."),
    ] = None,
    threads: Threads = None,
) -> None:
    """Serve one page: choose a portrait, speak, and see and hear the avatar.

    Example: af-runtime demo --no-open
    """
    if find_spec("aiohttp") is None:
        raise UnavailableError("The page needs aiohttp: pip install 'af-runtime[web]'")
    from af_runtime.web.addresses import parse_address

    address = parse_address(bind, token)
    use_threads(threads)
    if connect is not None:
        _connected(connect, key, server_key, address, open)
    else:
        _alone(preset, address, open)
    _say("ended")


def _alone(preset: str, address: "Address", open: bool) -> None:
    """Serve the page with a worker of its own."""
    import af_core

    from af_runtime.client import AsyncAvatarClient
    from af_runtime.web.own_worker import own_worker
    from af_runtime.web.stages import StageClock
    from af_runtime.web.studio import Studio

    stages = StageClock()
    _say(f"loading {preset}")
    avatar = stages.watched(af_core.load(preset))
    with own_worker(avatar) as endpoint:
        studio = Studio(lambda: AsyncAvatarClient.connect(endpoint), avatar.info.preset, stages)
        asyncio.run(_serve(studio, address, open))


def _connected(
    endpoint: str, key: Path | None, server_key: Path | None, address: "Address", open: bool
) -> None:
    """Serve the page for a worker that runs elsewhere."""
    from af_runtime.client import AsyncAvatarClient, AvatarClient
    from af_runtime.web.studio import Studio

    with AvatarClient(endpoint, key=key, server_key=server_key) as client:
        preset = client.format.preset
    connect = partial(AsyncAvatarClient.connect, endpoint, key=key, server_key=server_key)
    asyncio.run(_serve(Studio(connect, preset), address, open))


async def _serve(studio: "Studio", address: "Address", open: bool) -> None:
    """Serve until Ctrl-C or SIGTERM."""
    from af_runtime.web.site import served

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    async with served(studio, address) as there:
        _say(f"demo at {there.url} (Ctrl-C ends it)")
        if open:
            await asyncio.to_thread(_open, there.url)
        await stop.wait()


def _open(url: str) -> None:
    import webbrowser

    with contextlib.suppress(webbrowser.Error):
        webbrowser.open(url)


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()
