"""Where a worker may be reached without encryption: on its own machine."""

import ipaddress
from urllib.parse import urlsplit

LOCAL_SCHEMES = ("ipc", "inproc")


def is_local(endpoint: str) -> bool:
    """Return whether only this machine can reach an endpoint such as ``tcp://127.0.0.1:5700``."""
    parts = urlsplit(endpoint)
    if parts.scheme in LOCAL_SCHEMES:
        return True
    return is_local_host(parts.netloc.rpartition(":")[0].strip("[]"))


def is_local_host(host: str) -> bool:
    """Return whether a name or address, without brackets, is this machine's own and no other's."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
