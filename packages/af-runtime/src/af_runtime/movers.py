"""Takes the sessions of a worker that stops to another one, each with its client."""

import logging
import queue
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from af_core.errors import AvatarForcingError

from af_runtime.client.link import Link
from af_runtime.hosting import Hosted
from af_runtime.messages import from_client as client
from af_runtime.messages import from_server as server
from af_runtime.session.state import Phase

if TYPE_CHECKING:
    from af_runtime.handing import Handing

log = logging.getLogger(__name__)

ANSWER_S = 4.0
"""How long the other worker may take over a session: less than it stands still for."""

AGAIN_S = 2.0
"""When a session that could not be moved is tried again."""


def take(link: Link, session: str, token: str = "") -> Any:
    """Return the bytes of a session, which stands still from now on, uint8 [n].

    Raises `ServiceError` if the worker refuses.
    """
    asked = client.Snapshot(session=session, token=token)
    return link.ask(asked, ANSWER_S).arrays["snapshot"]


def bring(link: Link, session: str, data: Any) -> str:
    """Give a session to a worker; return the token with which its client resumes there."""
    return link.ask(client.Restore(session=session), ANSWER_S, snapshot=data).message.resume_token


class Movers:
    """Moves all sessions of a server to the worker that ``connect`` reaches, on a thread.

    ``endpoint`` is what their clients are told.
    """

    def __init__(self, endpoint: str, connect: Callable[[], Link]) -> None:
        self._endpoint, self._connect = endpoint, connect
        self._jobs: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
        self._tried_s: dict[int, float] = {}
        self._handing: Handing | None = None
        self._wake: Callable[[], None] = lambda: None

    def begin(self, handing: "Handing", wake: Callable[[], None]) -> None:
        """Start; the server's loop calls `turn` from now on."""
        self._handing, self._wake = handing, wake
        threading.Thread(target=self._run, name="af-movers", daemon=True).start()

    def turn(self, hosted: list[Hosted], now_s: float) -> None:
        """Take the sessions that have not been taken, and again those that came back."""
        for one in hosted:
            is_ready = one.session.phase in (Phase.ACTIVE, Phase.DRAINING) and not one.is_held
            if is_ready and now_s - self._tried_s.get(one.stream, -AGAIN_S) >= AGAIN_S:
                self._tried_s[one.stream] = now_s
                assert self._handing is not None
                self._handing.take(one, self._taken)

    def _taken(self, name: str, data: Any, problem: str) -> None:
        if data is None:
            log.warning("a session cannot be moved: %s", problem)
        else:
            self._jobs.put((name, data))

    def _run(self) -> None:
        link: Link | None = None
        while True:
            name, data = self._jobs.get()
            try:
                link = link or self._connect()
                moved = server.Moved(
                    session=name, endpoint=self._endpoint, resume_token=bring(link, name, data)
                )
            except AvatarForcingError as e:
                log.warning("a session could not be moved to %s: %s", self._endpoint, e)
                continue
            assert self._handing is not None
            self._handing.released(moved)
            self._wake()
