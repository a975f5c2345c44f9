"""Health over HTTP, on a port of its own: /livez, /readyz, /status and /metrics.

Alive means that the loop turns; ready, that a session would be taken now. A worker that drains is
alive and not ready.
"""

import threading
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from typing import Any

import msgspec

from af_runtime.errors import BusyError, RequestError
from af_runtime.levels import STUCK_S, note_levels
from af_runtime.server import Server
from af_runtime.stages.reporting import StageReport

TEXT = "text/plain; charset=utf-8"
JSON = "application/json"
METRICS = "text/plain; version=0.0.4; charset=utf-8"

Page = tuple[int, str, bytes]
"""Status, content type and body of an answer."""


class Health:
    """What is known of a worker: nothing before ``server`` is set, while its weights load."""

    def __init__(self) -> None:
        self.server: Server | None = None
        self.stages: StageReport | None = None
        """Set where the avatar runs in several processes."""

    def page(self, path: str) -> Page:
        """Return the answer to a request."""
        pages: dict[str, Callable[[], Page]] = {
            "/livez": lambda: _told(self.trouble()),
            "/healthz": lambda: _told(self.trouble()),
            "/readyz": lambda: _told(self.trouble() or self.not_ready()),
            "/status": lambda: (200, JSON, msgspec.json.encode(self.status()) + b"\n"),
            "/metrics": lambda: (200, METRICS, self._metrics()),
        }
        unknown = (404, TEXT, f"one of {' '.join(pages)}\n".encode())
        return pages.get(path, lambda: unknown)()

    def trouble(self) -> str:
        """Return why the worker should be restarted; empty if it should not."""
        if self.server is None:
            return ""
        silent_s = self.server.silent_s
        if silent_s > STUCK_S:
            return f"the loop has not turned for {silent_s:.0f} s"
        if self.server.busy_s > STUCK_S:
            return f"a block has taken {self.server.busy_s:.0f} s so far"
        return self.stages.trouble() if self.stages is not None else ""

    def not_ready(self) -> str:
        """Return why no session would be taken now; empty if one would."""
        if self.server is None:
            return "warming"
        if self.server.is_draining:
            return "draining"
        if self.stages is not None and (reason := self.stages.not_ready()):
            return reason
        return "full" if self.server.admission.is_full else ""

    def status(self) -> dict[str, Any]:
        """Return what people and programs want to know at a glance."""
        server = self.server
        reason = self.trouble() or self.not_ready()
        told = {"live": not self.trouble(), "ready": not reason, "reason": reason}
        if server is None:
            return told
        hosted = server.hosted
        return told | {
            "preset": server.info.preset,
            **server.admission.status(),
            "version": version("af-runtime"),
            "up_s": round(server.up_s, 1),
            "phases": {p.value: n for p, n in Counter(one.session.phase for one in hosted).items()},
            "endpoint": server.endpoint,
            "busy_s": round(server.busy_s, 3),
            "recording": server.watching.recorder is not None,
            "tracing": server.watching.traces is not None,
            "stages": self.stages.status() if self.stages is not None else [],
        }

    def _metrics(self) -> bytes:
        if self.server is None:
            return b""
        note_levels(self.server)
        if self.stages is not None:
            self.stages.note(self.server.metrics)
        return self.server.metrics.page()


class HealthServer:
    """Answers on an address such as ``127.0.0.1:5701``, on threads of its own."""

    def __init__(self, health: Health, address: str) -> None:
        host, _, port = address.rpartition(":")
        if not host or not port.isdigit():
            raise RequestError(f"{address!r} is no address; one is 127.0.0.1:5701.")
        try:
            self._http = ThreadingHTTPServer((host, int(port)), _handler(health))
        except OSError as e:
            raise BusyError(f"{address} cannot be bound: {e.strerror}.") from e
        self._http.daemon_threads = True
        self.address = f"{host}:{self._http.server_port}"
        self._thread = threading.Thread(target=self._http.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Answer no more."""
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()


def _told(reason: str) -> Page:
    return (503 if reason else 200, TEXT, f"{reason or 'ok'}\n".encode())


def _handler(health: Health) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        """Answers GET requests."""

        def do_GET(self) -> None:
            status, kind, body = health.page(self.path.partition("?")[0])
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing: probes come every second."""

    return Handler
