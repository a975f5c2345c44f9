"""``af-runtime ping``: does a stream worker answer, and how quickly?"""

from statistics import median
from typing import Annotated

import typer

from af_runtime.commands.connecting import DEFAULT_ENDPOINT, Connect, Key, ServerKey
from af_runtime.commands.output import print_json
from af_runtime.errors import RequestError


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command("ping")(ping)


def ping(
    endpoint: Annotated[str | None, typer.Argument(metavar="[ENDPOINT]", hidden=True)] = None,
    connect: Connect = DEFAULT_ENDPOINT,
    count: Annotated[int, typer.Option(min=1, help="Round trips to measure.")] = 10,
    timeout: Annotated[
        float, typer.Option(metavar="SECONDS", help="How long to wait for the worker.")
    ] = 5.0,
    key: Key = None,
    server_key: ServerKey = None,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """See whether a stream worker answers, and how quickly.

    Example: af-runtime ping --connect tcp://127.0.0.1:5700
    """
    from af_runtime.client import AvatarClient

    if endpoint is not None and connect not in (endpoint, DEFAULT_ENDPOINT):
        raise RequestError(f"Two workers are named, {endpoint} and {connect}; name one.")
    with AvatarClient(
        endpoint or connect, key=key, server_key=server_key, timeout_s=timeout
    ) as client:
        times_ms = [1e3 * client.ping() for _ in range(count)]
        found = client.format
        told = {
            "server": client.server,
            "preset": found.preset,
            "width": found.width,
            "height": found.height,
            "round_trip_ms": round(median(times_ms), 3),
        }
    if json:
        print_json(told)
    else:
        typer.echo(
            f"{told['server']} serves {found.preset}, {found.width}x{found.height}; "
            f"round trip {told['round_trip_ms']} ms (median of {count})."
        )
