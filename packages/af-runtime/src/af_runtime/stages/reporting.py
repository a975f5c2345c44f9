"""What is told of the stages: whether the worker can serve, its status, and its metrics."""

import time
from typing import Any

import attrs

from af_runtime.metrics import Metrics
from af_runtime.stages.supervisor import Supervisor

STUCK_S = 10.0
"""A supervisor whose loop has not turned for longer supervises nothing."""


class StageReport:
    """Reads a supervisor; any thread may ask."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._told: dict[tuple[str, str], int] = {}

    def trouble(self) -> str:
        """Return why the worker should be restarted; empty if it should not."""
        silent_s = time.monotonic() - self._supervisor.turned_s
        if self._supervisor.fatal:
            return self._supervisor.fatal
        is_silent = silent_s > STUCK_S
        return f"the supervisor has not turned for {silent_s:.0f} s" if is_silent else ""

    def not_ready(self) -> str:
        """Return which stages are not there now; empty if all are."""
        down = self._supervisor.down()
        return f"restarting {', '.join(down)}" if down else ""

    def status(self) -> list[dict[str, Any]]:
        """Return what is known of each stage."""
        return [attrs.asdict(one) for one in self._supervisor.status()]

    def note(self, metrics: Metrics) -> None:
        """Bring the metrics of the stages up to date."""
        for one in self._supervisor.status():
            metrics.stage_up.labels(one.process).set(one.is_up)
            if one.heartbeat_age_s is not None:
                metrics.heartbeat_s.labels(one.process).set(one.heartbeat_age_s)
        for (process, reason), count in list(self._supervisor.restarts.items()):
            before = self._told.get((process, reason), 0)
            metrics.restarts.labels(process, reason).inc(count - before)
            self._told[process, reason] = count
