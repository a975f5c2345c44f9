"""Where the page is served, and who may open it."""

import secrets
from urllib.parse import urlsplit

import attrs

from af_runtime.errors import RequestError
from af_runtime.transport.endpoints import is_local_host

DEFAULT_BIND = "127.0.0.1:7860"

LEAST_TOKEN = 12
"""Characters of a token that somebody has thought of."""


@attrs.frozen
class Address:
    """Host and port of the page, and the token without which it shows nothing."""

    host: str
    port: int
    token: str | None = None

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        return is_local_host(self.host)

    @property
    def url(self) -> str:
        """What to type into a browser, token included."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        page = f"http://{host}:{self.port}/"
        return page if self.token is None else f"{page}?token={self.token}"


def parse_address(bind: str, token: str | None = None) -> Address:
    """Return the address of ``HOST:PORT``; raises `RequestError` if it is none, or too open.

    Beyond loopback there must be a token; ``auto`` makes one.
    """
    parts = urlsplit(f"//{bind}")
    try:
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not host or port is None or parts.path:
        raise RequestError(f"The page is bound to HOST:PORT such as {DEFAULT_BIND}; got {bind!r}.")
    if token is None and not is_local_host(host):
        raise RequestError(
            f"{bind} can be reached by other machines, and whoever opens the page may use it. "
            "Give --token auto (or a secret of your own) so that only those who have the link can."
        )
    if token not in (None, "auto") and len(token) < LEAST_TOKEN:
        raise RequestError(
            f"A token has at least {LEAST_TOKEN} characters; --token auto makes one."
        )
    return Address(host, port, secrets.token_urlsafe(16) if token == "auto" else token)
