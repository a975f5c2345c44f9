"""How a worker receives clients: the answer to HELLO, their portraits, and refusals."""

import logging
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

from af_core.errors import AvatarForcingError
from af_core.geometry import SAMPLES_PER_FRAME
from af_core.pipeline import AvatarInfo
from numpy.typing import NDArray

from af_runtime.errors import ProtocolError
from af_runtime.messages import from_client as client
from af_runtime.messages import from_server as server
from af_runtime.messages.codec import VERSION
from af_runtime.messages.codes import RETRYABLE, Code
from af_runtime.transport.base import REFUSED

log = logging.getLogger(__name__)

Portraits = Callable[[str], NDArray[Any]]
"""Returns the portrait of a name, uint8 [H, W, 3]; raises `AvatarForcingError`."""

RETRY_MS = 1_000

REFUSALS_S = 10.0
"""Refused connections are logged at most as often."""

FEATURES = ("resume", "move", "stats")
"""Optional parts of the protocol that this worker knows."""


def answered(
    hello: client.Hello, info: AvatarInfo, features: tuple[str, ...] = ()
) -> server.HelloOk:
    """Return the answer; raises `ProtocolError` if no version is known to both.

    ``features`` are known besides those that any worker knows.
    """
    if not hello.min_version <= VERSION <= hello.max_version:
        raise ProtocolError(
            Code.VERSION,
            f"This worker speaks version {VERSION}; "
            f"the client {hello.min_version} to {hello.max_version}.",
        )
    what = server.Format(
        preset=info.preset,
        width=info.width,
        height=info.height,
        block_samples=info.frames_per_block * SAMPLES_PER_FRAME,
        lookahead_samples=round(info.lookahead_ms * info.sample_rate / 1e3),
    )
    return server.HelloOk(
        version=VERSION,
        format=what,
        features=tuple(one for one in (*FEATURES, *features) if one in hello.features),
        server=f"af-runtime/{version('af-runtime')}",
    )


def picture_of(
    opening: client.Open, sent: NDArray[Any] | None, portraits: Portraits, info: AvatarInfo
) -> NDArray[Any]:
    """Return the portrait uint8 [H, W, 3] that was sent or named; raises `ProtocolError`."""
    try:
        picture = portraits(opening.portrait) if sent is None else sent
    except AvatarForcingError as e:
        raise ProtocolError(Code.REFERENCE_REJECTED, str(e), opening.session) from e
    size = (info.height, info.width, 3)
    if picture.shape != size:
        text = f"The portrait is {list(picture.shape)}; this avatar takes {list(size)}."
        raise ProtocolError(Code.REFERENCE_REJECTED, text, opening.session)
    return picture


def refusal(code: Code, text: str, session: str, *, fatal: bool, after_ms: int = 0) -> server.Error:
    """Return the message that says that something was refused or has failed.

    ``after_ms`` is when it may be tried again, if it may; 0 is soon.
    """
    return server.Error(
        code=code,
        message=text[:2048],
        session=session[:64],
        fatal=fatal,
        retryable=code in RETRYABLE,
        retry_after_ms=(after_ms or RETRY_MS) if code in RETRYABLE else 0,
    )


class Refusals:
    """Logs that connections were refused before they could say HELLO."""

    def __init__(self) -> None:
        self._logged, self._may_log_s = 0, 0.0

    def note(self, failures: int, now_s: float) -> None:
        """Log how many there were since the last time, at most once in a while."""
        if failures > self._logged and now_s >= self._may_log_s:
            log.warning("%d connections were refused: %s", failures - self._logged, REFUSED)
            self._logged, self._may_log_s = failures, now_s + REFUSALS_S
