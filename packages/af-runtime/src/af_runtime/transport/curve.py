"""Keys of encrypted lines (CURVE): made, read, and checked against those a worker allows.

A folder of keys holds ``NAME.key`` (public), ``NAME.key_secret`` (for the owner's eyes only) and
``clients``, the public keys of those who may connect. It is looked at for each connection, so a key
that is added or removed counts at once.
"""

from pathlib import Path
from typing import Any

import attrs
import zmq
import zmq.auth
from zmq.auth.thread import ThreadAuthenticator

from af_runtime.errors import KeysError

CLIENTS = "clients"
PRIVATE = 0o600
OTHERS = 0o077


@attrs.frozen
class ServerKeys:
    """What a worker needs: its own keys, and the folder of those it allows."""

    public: bytes
    secret: bytes = attrs.field(repr=False)
    clients: Path

    def protect(self, socket: "zmq.Socket[Any]") -> None:
        """Encrypt a socket that will be bound."""
        socket.curve_server = True
        socket.curve_publickey, socket.curve_secretkey = self.public, self.secret


@attrs.frozen
class ClientKeys:
    """What a client needs: its own keys, and the public key of the worker."""

    public: bytes
    secret: bytes = attrs.field(repr=False)
    server: bytes

    def protect(self, socket: "zmq.Socket[Any]") -> None:
        """Encrypt a socket that will be connected."""
        socket.curve_serverkey = self.server
        socket.curve_publickey, socket.curve_secretkey = self.public, self.secret


class Guard:
    """Answers, on a thread of its own, whether a key may connect."""

    def __init__(self, context: "zmq.Context[Any]", keys: ServerKeys) -> None:
        self._clients = keys.clients
        self._thread = ThreadAuthenticator(context)
        self._thread.start()
        self._thread.configure_curve_callback(credentials_provider=self)

    def callback(self, domain: str, key: bytes) -> bool:
        """Return whether a public key, as in its file, is one of those allowed."""
        return key in allowed(self._clients)

    def close(self) -> None:
        """Stop answering."""
        self._thread.stop()


def new_keys(folder: Path, name: str) -> tuple[Path, Path]:
    """Make a pair of keys and return the files of the public and the secret one."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CLIENTS).mkdir(exist_ok=True)
    if any((folder / f"{name}{ending}").exists() for ending in (".key", ".key_secret")):
        raise KeysError(f"{folder} has keys named {name!r} already; they are not replaced.")
    public, secret = map(Path, zmq.auth.create_certificates(folder, name))
    secret.chmod(PRIVATE)
    return public, secret


def server_keys(folder: Path, name: str = "server") -> ServerKeys:
    """Return the keys of a worker from a folder."""
    public, secret = _pair(folder / f"{name}.key_secret")
    return ServerKeys(public, secret, folder / CLIENTS)


def client_keys(key: Path | None, server_key: Path | None) -> ClientKeys | None:
    """Return the keys of a client from its secret file and the worker's public one, if given."""
    if key is None and server_key is None:
        return None
    if key is None or server_key is None:
        raise KeysError("An encrypted line needs both: the client's key and the worker's.")
    return ClientKeys(*_pair(key), server=_load(server_key)[0])


def allowed(folder: Path) -> set[bytes]:
    """Return the public keys of those who may connect, from a folder of ``.key`` files."""
    return {_load(path)[0] for path in sorted(folder.glob("*.key"))}


def allowed_names(folder: Path) -> dict[str, str]:
    """Return the names, which are those of their files, of the keys that may connect."""
    return {_load(path)[0].decode(): path.stem for path in sorted(folder.glob("*.key"))}


def _pair(path: Path) -> tuple[bytes, bytes]:
    public, secret = _load(path)
    if secret is None:
        raise KeysError(f"{path} holds no secret key; it should end in .key_secret.")
    if path.stat().st_mode & OTHERS:
        raise KeysError(f"{path} can be read by others than its owner: chmod 600 {path}")
    return public, secret


def _load(path: Path) -> tuple[bytes, bytes | None]:
    try:
        return zmq.auth.load_certificate(path)
    except (OSError, ValueError) as e:
        raise KeysError(
            f"{path} holds no key ({e}). `af-runtime keys new NAME` makes a pair."
        ) from e
