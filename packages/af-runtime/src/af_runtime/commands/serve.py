"""``af-runtime serve``: an avatar for any number of clients, until SIGTERM."""

import logging
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import attrs
import typer

from af_runtime.commands.connecting import Key, ServerKey
from af_runtime.commands.output import Overrides
from af_runtime.commands.threads import Threads, use_threads
from af_runtime.errors import RequestError

log = logging.getLogger(__name__)

Logs = Literal["text", "json"]

if TYPE_CHECKING:
    from af_core.graph.checked import Pipeline

    from af_runtime.admission import Limits
    from af_runtime.movers import Movers

DEFAULT_SESSIONS = 2
"""Where nothing was measured."""


class Batching(StrEnum):
    """Whether blocks of several sessions are drawn as one."""

    AUTO = "auto"
    ON = "on"
    OFF = "off"


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
        int | None,
        typer.Option(min=1, help="Default: as `bench --sessions auto` has measured, or else 2."),
    ] = None,
    queue: Annotated[
        int, typer.Option(min=0, help="Sessions beyond them that may wait; others are refused.")
    ] = 0,
    batching: Annotated[
        Batching, typer.Option(help="Draw sessions as one batch; auto: if measured to be faster.")
    ] = Batching.AUTO,
    capacity: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The measured capacity, if elsewhere.")
    ] = None,
    keys: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Keys of `keys new`; needed off loopback.")
    ] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Serve a network without encryption.")
    ] = False,
    drain_timeout: Annotated[
        float, typer.Option(metavar="SECONDS", help="After SIGTERM, for sessions to end.")
    ] = 30.0,
    drain_to: Annotated[
        str | None,
        typer.Option(metavar="ENDPOINT", help="After SIGTERM, move sessions to this worker."),
    ] = None,
    drain_key: Key = None,
    drain_server_key: ServerKey = None,
    resume_ttl: Annotated[
        float, typer.Option(metavar="SECONDS", help="How long to wait for a client that was lost.")
    ] = 15.0,
    record: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Record every session there, for `af-runtime replay`."),
    ] = None,
    record_pixels: Annotated[
        bool, typer.Option("--record-pixels", help="Record pictures too, not their digests alone.")
    ] = False,
    trace: Annotated[
        bool, typer.Option("--trace", help="A span of OpenTelemetry for each block.")
    ] = False,
    log_format: Annotated[
        Logs, typer.Option(envvar="AF_LOG_FORMAT", help="Lines for people, or JSON.")
    ] = "text",
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
    from af_runtime.logs import set_up_logs

    set_up_logs(log_format)
    chosen = use_threads(threads)
    from af_core.graph import parse_overrides

    from af_runtime.service import RecordOptions, ServiceOptions, running
    from af_runtime.stages.choosing import loader, plan
    from af_runtime.transport.endpoints import checked

    if record_pixels and record is None:
        raise RequestError("--record-pixels needs --record DIR.")
    if drain_to is not None:
        checked(drain_to)
    elif drain_key is not None or drain_server_key is not None:
        raise RequestError("--drain-key and --drain-server-key need --drain-to ENDPOINT.")
    name = pipeline or preset
    wanted = plan(name, parse_overrides(overrides or []), placement)
    changes = wanted.source.overrides
    limits, notices = _limits(
        wanted.source.open(), chosen, max_sessions, queue, batching, capacity, resume_ttl
    )
    if limits.together and (record is not None or wanted.is_staged):
        limits = attrs.evolve(limits, together=False)
        why = "its stages are processes" if wanted.is_staged else "it records"
        notices.append(f"Sessions are not drawn as one batch: {why}.")
    options = ServiceOptions(
        bind=bind,
        health=None if health == "-" else health,
        keys=keys,
        is_insecure=insecure,
        limits=limits,
        recording=RecordOptions(record, name, changes, record_pixels) if record else None,
        is_traced=trace,
    )
    load = loader(wanted, threads=chosen, max_sessions=limits.max_sessions)
    with running(load, options) as server:
        log.info("serving %s at %s", server.info.preset, server.endpoint)
        for notice in notices:
            log.info("%s", notice)
        if insecure:
            log.warning("what travels is not encrypted (--insecure)")
        if record is not None:
            log.info("recording sessions, voices and portraits included, in %s", record)
        movers = None if drain_to is None else _movers(drain_to, drain_key, drain_server_key)
        with _stopping(lambda: server.drain(drain_timeout, movers)):
            server.run()
    log.info("ended")


def _movers(to: str, key: Path | None, server_key: Path | None) -> "Movers":
    """Return what takes sessions to another worker when this one stops."""
    from af_runtime.client.opening import connected
    from af_runtime.movers import Movers

    return Movers(to, lambda: connected(to, key, server_key))


def _limits(
    pipeline: "Pipeline",
    threads: int,
    max_sessions: int | None,
    queue: int,
    batching: Batching,
    file: Path | None,
    resume_ttl_s: float,
) -> tuple["Limits", list[str]]:
    """Return how much is taken on, as asked for or else as was measured, and what to say of it."""
    from af_runtime.admission import Limits
    from af_runtime.capacity.record import default_path, key_of, recall

    path = file or default_path(pipeline.spec.name)
    measured, notice = recall(path, key_of(pipeline, threads))
    places = max_sessions or (DEFAULT_SESSIONS if measured is None else measured.sessions)
    as_one = measured is not None and measured.together
    together = as_one if batching is Batching.AUTO else batching is Batching.ON
    told = f"{places} sessions at a time, {queue} may wait, batching {'on' if together else 'off'}"
    limits = Limits(
        max_sessions=places,
        max_sessions_per_client=places + queue,
        queue=queue,
        together=together,
        resume_ttl_s=resume_ttl_s,
    )
    is_asked = max_sessions is not None and batching is not Batching.AUTO and file is None
    return limits, [told] if is_asked else [told, notice]


@contextmanager
def _stopping(drain: Callable[[], None]) -> Iterator[None]:
    """Let SIGTERM and Ctrl-C drain; the second of them ends the process."""
    asked: list[int] = []

    def end(number: int, frame: object) -> None:
        if asked:
            raise SystemExit(128 + number)
        asked.append(number)
        log.info("draining; once more to end at once")
        drain()

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
