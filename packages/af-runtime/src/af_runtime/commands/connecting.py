"""Options of the commands that talk to a stream worker."""

from pathlib import Path
from typing import Annotated

import typer

Connect = Annotated[
    str, typer.Option("--connect", metavar="ENDPOINT", help="Where the stream worker is.")
]
Key = Annotated[
    Path | None,
    typer.Option(metavar="NAME.key_secret", help="This client's key, for an encrypted worker."),
]
ServerKey = Annotated[
    Path | None, typer.Option(metavar="server.key", help="The worker's public key.")
]

DEFAULT_ENDPOINT = "tcp://127.0.0.1:5700"
