"""What both clients need to open a session: where to connect, and the portrait as it travels."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from af_runtime.client.link import Link
from af_runtime.messages import from_client as client
from af_runtime.messages.from_server import Format

DEFAULT_ENDPOINT = "tcp://127.0.0.1:5700"

Portrait = str | Path | NDArray[np.uint8]
"""A picture file, the name of a portrait that the worker ships, or pixels uint8 [H, W, 3]."""


def connected(
    endpoint: str,
    key: Path | None = None,
    server_key: Path | None = None,
    features: tuple[str, ...] = (),
) -> Link:
    """Return a line to the worker at an endpoint; with keys, an encrypted one."""
    from af_runtime.transport.curve import client_keys
    from af_runtime.transport.zeromq import ZmqClient

    keys = client_keys(key, server_key)

    def dial(to: str) -> ZmqClient:
        return ZmqClient(to, keys)

    return Link(dial(endpoint), endpoint, dial, features)


def open_message(
    name: str, portrait: Portrait, format: Format, **options: Any
) -> tuple[client.Open, Mapping[str, NDArray[np.uint8]]]:
    """Return the message that opens a session, and its buffers."""
    message = client.Open(session=name, **options)
    if isinstance(portrait, np.ndarray):
        return message, {"portrait": portrait}
    if not Path(portrait).exists() and Path(portrait).name == str(portrait):
        return msgspec.structs.replace(message, portrait=str(portrait)), {}
    from af_runtime.portrait import load_portrait

    picture = load_portrait(portrait, width=format.width, height=format.height)
    return message, {"portrait": picture.numpy()}
