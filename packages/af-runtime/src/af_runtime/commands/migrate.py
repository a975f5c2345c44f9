"""``af-runtime migrate``: a session from one stream worker to another; its client follows."""

import time
from typing import Annotated

import typer

from af_runtime.commands.connecting import Key, ServerKey
from af_runtime.commands.output import print_json


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command("migrate")(migrate)


def migrate(
    session: Annotated[str, typer.Argument(metavar="SESSION", help="Name of the session.")],
    source: Annotated[str, typer.Option("--from", metavar="ENDPOINT", help="Where it lives.")],
    to: Annotated[str, typer.Option("--to", metavar="ENDPOINT", help="Where it shall live.")],
    token: Annotated[
        str, typer.Option(help="Its resume token, for a worker that is reached over a network.")
    ] = "",
    timeout: Annotated[
        float, typer.Option(metavar="SECONDS", help="How long to wait for the workers.")
    ] = 5.0,
    key: Key = None,
    server_key: ServerKey = None,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Move a live session to another worker that serves the same avatar; its client follows.

    Not a frame is lost or doubled. If the other worker refuses, the session goes on where it is.

    Example: af-runtime migrate --from tcp://127.0.0.1:5700 --to tcp://127.0.0.1:5710 SESSION
    """
    from af_runtime.client import AvatarClient
    from af_runtime.messages.from_client import Release
    from af_runtime.movers import bring, take

    keys = {"key": key, "server_key": server_key, "timeout_s": timeout}
    with AvatarClient(source, **keys) as here, AvatarClient(to, **keys) as there:
        began = time.perf_counter()
        data = take(here.link, session, token)
        new = bring(there.link, session, data)
        here.link.post(Release(session=session, endpoint=to, resume_token=new, token=token))
        here.ping(timeout)  # what was posted has been heard
        took_ms = round(1e3 * (time.perf_counter() - began), 1)
    if json:
        print_json({"session": session, "to": to, "bytes": len(data), "took_ms": took_ms})
    else:
        typer.echo(f"{session} lives at {to} now: {len(data) / 1e6:.1f} MB in {took_ms} ms.")
