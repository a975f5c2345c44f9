"""``af-runtime serve``: an avatar for any number of clients, until SIGTERM."""

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

import typer

from af_runtime.commands.output import Overrides
from af_runtime.commands.threads import Threads, use_threads

Placement = Literal["file", "one", "stages"]


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command("serve")(serve)


def serve(
    pipeline: Annotated[
        str | None, typer.Argument(metavar="[PIPELINE]", help="A pipeline file or a preset.")
    ] = None,
    preset: Annotated[str, typer.Option(help="A preset, if no pipeline is given.")] = "toon",
    bind: Annotated[
        str, typer.Option(metavar="ENDPOINT", help="Where clients connect to.")
    ] = "tcp://127.0.0.1:5700",
    health: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="/livez /readyz /status /metrics; - for none.")
    ] = "127.0.0.1:5701",
    max_sessions: Annotated[
        int, typer.Option(min=1, help="More are refused; see what this machine can do with bench.")
    ] = 2,
    keys: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Keys of `keys new`; needed off loopback.")
    ] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Serve a network without encryption.")
    ] = False,
    drain_timeout: Annotated[
        float, typer.Option(metavar="SECONDS", help="After SIGTERM, for sessions to end.")
    ] = 30.0,
    placement: Annotated[
        Placement,
        typer.Option(help="As the pipeline says, in one process, or in three that recover."),
    ] = "file",
    overrides: Overrides = None,
    threads: Threads = None,
) -> None:
    """Serve an avatar to clients: speech in, frames out, over ZeroMQ.

    With no argument it serves the embedded model on loopback. SIGTERM and Ctrl-C take no new
    sessions and wait for those that run; a second one ends them at once.

    Example: af-runtime serve & af-runtime say iris speech.wav -o iris.mp4
    """
    chosen = use_threads(threads)
    from af_core.graph import parse_overrides

    from af_runtime.server import Limits
    from af_runtime.service import ServiceOptions, running
    from af_runtime.stages.choosing import loader, plan

    options = ServiceOptions(
        bind=bind,
        health=None if health == "-" else health,
        keys=keys,
        is_insecure=insecure,
        limits=Limits(max_sessions=max_sessions, max_sessions_per_client=max_sessions),
    )
    wanted = plan(pipeline or preset, parse_overrides(overrides or []), placement)
    load = loader(wanted, threads=chosen, max_sessions=max_sessions)
    with running(load, options) as server:
        _say(f"serving {server.info.preset} at {server.endpoint}")
        if insecure:
            _say("warning: what travels is not encrypted (--insecure)")
        with _stopping(lambda: server.drain(drain_timeout)):
            server.run()
    _say("ended")


@contextmanager
def _stopping(drain: Callable[[], None]) -> Iterator[None]:
    """Let SIGTERM and Ctrl-C drain; the second of them ends the process."""
    asked: list[int] = []

    def end(number: int, frame: object) -> None:
        if asked:
            raise SystemExit(128 + number)
        asked.append(number)
        _say("draining; once more to end at once")
        drain()

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()
