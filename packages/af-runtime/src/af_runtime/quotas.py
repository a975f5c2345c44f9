"""What each key may use: sessions, speech and bytes, from a file beside the keys that are allowed.

The file is ``clients/quotas.toml`` in the folder of keys, and is read again when it changes:

    [default]
    sessions = 2

    [clients.anna]                    # of anna.key
    sessions = 4
    audio_seconds_per_minute = 240
    bytes_per_minute = 40_000_000

What is not given is not limited.
"""

import logging
import tomllib
from pathlib import Path
from typing import Annotated

import attrs
import msgspec
from af_core.geometry import AUDIO_HZ
from msgspec import Meta

from af_runtime.errors import KeysError, ProtocolError
from af_runtime.messages.codes import Code

log = logging.getLogger(__name__)

FILE = "quotas.toml"
MINUTE_S = 60.0

Amount = Annotated[float, Meta(gt=0)]


class Quota(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one key may use; None is no limit."""

    sessions: Annotated[int, Meta(ge=0)] | None = None
    """Sessions at a time."""
    audio_seconds_per_minute: Amount | None = None
    """Speech sent, over all its sessions."""
    bytes_per_minute: Amount | None = None
    """Bytes of all its messages: portraits, speech, headers."""


class QuotaFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole file."""

    default: Quota = Quota()
    """Of keys that have no entry."""
    clients: dict[str, Quota] = {}
    """By the name of the key's file, without ``.key``."""


@attrs.define
class Bucket:
    """An allowance that fills up evenly: ``rate`` a second, ``size`` at most."""

    rate: float
    size: float
    level: float = attrs.field(default=attrs.Factory(lambda self: self.size, takes_self=True))
    at_s: float = 0.0

    def take(self, amount: float, now_s: float) -> float:
        """Take an amount and return 0, or the seconds until it may be taken and take nothing."""
        grown = self.level + max(0.0, now_s - self.at_s) * self.rate
        self.level, self.at_s = min(self.size, grown), now_s
        if amount <= self.level:
            self.level -= amount
            return 0.0
        return (amount - self.level) / self.rate


@attrs.define
class _Usage:
    quota: Quota
    audio: Bucket | None
    bytes: Bucket | None


class Quotas:
    """Keeps account of what keys use. Without a folder of keys, nobody has a name or a limit."""

    def __init__(self, clients: Path | None = None, *, audio_window: int = 0) -> None:
        """Read the file, if there is one; raises `KeysError` for one that is wrong.

        ``audio_window`` samples may be sent ahead of their time, so as many more are allowed at
        once.
        """
        self._clients, self._window_s = clients, audio_window / AUDIO_HZ
        self._seen: tuple[object, ...] = ()
        self._file, self._names = QuotaFile(), dict[str, str]()
        self._usage: dict[str, _Usage] = {}
        if clients is not None:
            self._read(clients)

    def quota(self, user: str) -> Quota:
        """Return what a key, as in its file, may use."""
        if not user:
            return Quota()
        self._refresh()
        return self._file.clients.get(self._names.get(user, ""), self._file.default)

    def charge(self, user: str, *, num_bytes: int, num_samples: int, now_s: float) -> None:
        """Count a message; raises `ProtocolError` for one that is too much.

        That is ``auth.quota``; for a key that was taken out of the folder it is ``auth.denied``.
        """
        if not user:
            return
        self._require_allowed(user)
        usage = self._usage_of(user, self.quota(user))
        if usage.bytes is not None:
            limit = f"{usage.quota.bytes_per_minute:,.0f} bytes a minute"
            _require(usage.bytes.take(num_bytes, now_s), limit)
        if usage.audio is not None and num_samples:
            limit = f"{usage.quota.audio_seconds_per_minute:g} s of speech a minute"
            _require(usage.audio.take(num_samples / AUDIO_HZ, now_s), limit)

    def _require_allowed(self, user: str) -> None:
        if user not in self._names and self._clients is not None:
            self._read(self._clients)
            if user not in self._names:
                raise ProtocolError(Code.AUTH_DENIED, "This key is not allowed any more.")

    def _usage_of(self, user: str, quota: Quota) -> _Usage:
        known = self._usage.get(user)
        if known is None or known.quota != quota:
            speech, data = quota.audio_seconds_per_minute, quota.bytes_per_minute
            known = self._usage[user] = _Usage(
                quota,
                None if speech is None else Bucket(speech / MINUTE_S, speech + self._window_s),
                None if data is None else Bucket(data / MINUTE_S, data),
            )
        return known

    def _refresh(self) -> None:
        """Read the file again if it, or the set of keys, has changed; if it is wrong, keep it."""
        if self._clients is None or self._seen == _state_of(self._clients):
            return
        try:
            self._read(self._clients)
        except KeysError as e:
            self._seen = _state_of(self._clients)
            log.error("the quotas of before still hold: %s", e)

    def _read(self, clients: Path) -> None:
        from af_runtime.transport.curve import allowed_names

        seen = _state_of(clients)
        self._file, self._names = _decoded(clients / FILE), allowed_names(clients)
        self._seen = seen
        for name in self._file.clients.keys() - set(self._names.values()):
            log.warning("%s has a quota of %r, but no %s.key is there", clients / FILE, name, name)


def _decoded(path: Path) -> QuotaFile:
    if not path.exists():
        return QuotaFile()
    try:
        return msgspec.convert(tomllib.loads(path.read_text()), QuotaFile)
    except (OSError, UnicodeError, tomllib.TOMLDecodeError, msgspec.ValidationError) as e:
        known = ", ".join(Quota.__struct_fields__)
        raise KeysError(
            f"{path} holds no quotas: {e}. It has a table [default] and tables [clients.NAME], "
            f"each with some of: {known}."
        ) from e


def _state_of(clients: Path) -> tuple[object, ...]:
    """Return what changes when a quota or a key does."""
    times: list[object] = []
    for path in (clients, clients / FILE):
        try:
            told = path.stat()
            times.append((told.st_mtime_ns, told.st_size, told.st_ino))
        except OSError:
            times.append(None)
    return tuple(times)


def _require(wait_s: float, limit: str) -> None:
    if wait_s > 0:
        text = f"This key may use {limit}, and has used them; there is room in {wait_s:.0f} s."
        error = ProtocolError(Code.AUTH_QUOTA, text)
        error.retry_after_ms = round(wait_s * 1e3)
        raise error
