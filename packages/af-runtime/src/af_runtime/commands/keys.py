"""``af-runtime keys new``: keys for encrypted connections."""

from pathlib import Path
from typing import Annotated

import typer

from af_runtime.commands.output import print_json

keys_app = typer.Typer(help="Make the keys of encrypted connections.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.add_typer(keys_app, name="keys")


@keys_app.callback()
def _keys() -> None:
    """Make the keys of encrypted connections."""


@keys_app.command("new")
def new(
    name: Annotated[str, typer.Argument(help="Whose keys: `server`, or the name of a client.")],
    folder: Annotated[
        Path, typer.Option("--dir", metavar="DIR", help="Where they are put.")
    ] = Path("keys"),
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Make a pair of keys: NAME.key to give away, NAME.key_secret to keep.

    A worker uses those named `server`, and lets in whose public key is in DIR/clients.

    Example: af-runtime keys new server; af-runtime keys new anna --dir keys; cp keys/anna.key
    keys/clients; af-runtime serve --keys keys --bind tcp://0.0.0.0:5700
    """
    from af_runtime.transport.curve import new_keys

    public, secret = new_keys(folder, name)
    if json:
        print_json({"public": str(public), "secret": str(secret)})
    else:
        typer.echo(f"{public}: to give away\n{secret}: to keep")
