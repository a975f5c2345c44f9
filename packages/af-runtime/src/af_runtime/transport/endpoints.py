"""Where a worker may be reached without encryption: on its own machine."""

import ipaddress
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from af_runtime.errors import RequestError

LOCAL_SCHEMES = ("ipc", "inproc")


def is_local(endpoint: str) -> bool:
    """Return whether only this machine can reach an endpoint such as ``tcp://127.0.0.1:5700``."""
    parts = urlsplit(endpoint)
    if parts.scheme in LOCAL_SCHEMES:
        return True
    return is_local_host(parts.netloc.rpartition(":")[0].strip("[]"))


def checked(endpoint: str) -> str:
    """Return an endpoint that clients may connect to; raises `RequestError` if it is none."""
    scheme, _, name = endpoint.partition("://")
    _, colon, port = name.rpartition(":")
    is_tcp = scheme == "tcp" and bool(colon) and port.isdigit() and 0 < int(port) < 65_536
    if not is_tcp and not (scheme == "ipc" and name):
        raise RequestError(f"{endpoint} is no endpoint; one is tcp://127.0.0.1:5700.")
    return endpoint


@contextmanager
def private(endpoint: str) -> Iterator[None]:
    """Bind an endpoint inside: the file of an ``ipc://`` one is then its owner's alone.

    A folder that is not there is made with mode 0700; one in which others may exchange files, and
    a name without a file (``ipc://@name``), are refused.
    """
    scheme, _, name = endpoint.partition("://")
    if scheme != "ipc" or name == "*":  # for *, ZeroMQ makes a private folder itself
        yield
        return
    if name.startswith("@"):
        raise RequestError(f"{endpoint} has no owner; name a file, as in ipc:///run/me/avatar.")
    folder = Path(name).absolute().parent
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    mode = folder.stat().st_mode
    if mode & 0o022 and not mode & stat.S_ISVTX:
        raise RequestError(f"{folder} can be written by others than its owner: chmod 700 {folder}")
    before = os.umask(0o177)
    try:
        yield
    finally:
        os.umask(before)


def is_local_host(host: str) -> bool:
    """Return whether a name or address, without brackets, is this machine's own and no other's."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
