"""Keeps the stages of a pipeline alive: begins them, hears them, begins them again when they end.

One thread owns the lines to the stages; any other may ask through `ask`. What a stage had not
answered when it ended fails with `StageLostError`, and the one who asked asks its successor.
"""

import itertools
import logging
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

import attrs
from af_core.errors import StreamInputError
from af_core.graph.checked import Pipeline
from af_core.graph.placement import working_processes

from af_runtime.errors import StageFailedError, StageLostError
from af_runtime.stages import messages
from af_runtime.stages.birth import Birth
from af_runtime.stages.life import Life, number_of
from af_runtime.stages.messages import Beat, Done, Failed, Ready, Started
from af_runtime.stages.policy import Policy, fault, pause
from af_runtime.stages.source import fingerprint
from af_runtime.stages.ward import Ward
from af_runtime.transport.stages import Hub

log = logging.getLogger(__name__)

TURN_S = 0.25
"""The loop looks around at least this often."""

STALL_S = 1.0
"""When the loop itself has stood still for longer, nobody else is blamed for the time."""

SPARE = ""
"""The role of a process that has none yet."""

Reply = tuple[Done, Sequence[Any]]
"""An answer and its frames."""


@attrs.frozen
class StageStatus:
    """What is told of one stage."""

    process: str
    device: str
    nodes: tuple[str, ...]
    is_up: bool
    pid: int | None
    restarts: int
    heartbeat_age_s: float | None
    busy_s: float
    done: int


@attrs.frozen
class _Letter:
    """Something that another thread wants to be sent."""

    life: int
    call: int
    frames: Sequence[Any]
    future: "Future[Reply] | None"


class Supervisor:
    """Runs the processes of a placement. ``on_fatal`` is called, on its thread, when it gives up.

    ``birth`` is what all processes are told; the supervisor fills in who they are.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        birth: Birth,
        hub: Hub,
        policy: Policy | None = None,
        *,
        plugins: tuple[str, ...] = (),
        on_fatal: Callable[[], None] = lambda: None,
    ) -> None:
        self.policy, self._hub = policy or Policy(), hub
        self.processes = working_processes(pipeline)
        self.fatal = ""
        """Why it has given up; empty while it has not."""
        self.restarts: Counter[tuple[str, str]] = Counter()
        """Restarts by process and reason."""
        self.recovery_s: list[float] = []
        """From the end of a stage until its successor could work, the latest ones."""
        self.on_fatal = on_fatal
        self._expected = (fingerprint(pipeline), plugins)
        self._changed = threading.Condition()
        self._ward = Ward(hub, birth)
        self._current: dict[str, Life] = {}
        self._ended_s: dict[str, list[float]] = {name: [] for name in (*self.processes, SPARE)}
        self._due_s: dict[str, float] = dict.fromkeys((*self.processes, SPARE), 0.0)
        self._calls = itertools.count(1)
        self._letters: queue.SimpleQueue[_Letter] = queue.SimpleQueue()
        self._is_closing = False
        self._has_begun = False
        self.turned_s = time.monotonic()
        """When the loop last turned."""
        self._thread = threading.Thread(target=self._run, name="af-supervisor", daemon=True)
        self._thread.start()

    # for any thread

    def wait(self) -> None:
        """Return when all stages are up; raises `StageFailedError` when one cannot be."""
        for process in self.processes:
            self.life(process)

    def life(self, process: str) -> Life:
        """Return the process that is this stage now; waits while it is being restarted."""
        deadline_s = time.monotonic() + self.policy.start_s + self.policy.max_backoff_s
        with self._changed:
            while process not in self._current:
                if self.fatal or self._is_closing:
                    raise StageFailedError(self.fatal or "The worker is ending.")
                if not self._changed.wait(deadline_s - time.monotonic()):
                    raise StageFailedError(f"Stage {process} has not come up: still loading.")
            return self._current[process]

    def ask(self, life: Life, make: Callable[[int], Sequence[Any]]) -> Reply:
        """Send what ``make(call)`` returns and wait for the answer.

        Raises `StageLostError` if the process ends first, and `StageFailedError` with what it
        says if it cannot do it.
        """
        call, future = next(self._calls), Future[Reply]()
        self._post(_Letter(life.number, call, make(call), future))
        while True:
            try:
                return future.result(TURN_S)
            except TimeoutError as e:
                if not self._thread.is_alive() and not future.done():
                    raise StageLostError("The worker has ended.") from e

    def tell(self, process: str, make: Callable[[int], Sequence[Any]]) -> None:
        """Send something that nobody answers; a stage that is down need not hear it."""
        life = self._current.get(process)
        if life is not None:
            self._post(_Letter(life.number, 0, make(0), None))

    def down(self) -> list[str]:
        """Return the stages that cannot work now."""
        return [process for process in self.processes if process not in self._current]

    @property
    def has_spare(self) -> bool:
        """Whether a process has built what it can, and waits."""
        return any(life.is_built for life in self._ward.spares())

    def status(self) -> list[StageStatus]:
        """Return what is known of each stage."""
        return [self._status(process) for process in self.processes]

    @property
    def num_parameters(self) -> int:
        """Weights of all stages that are up."""
        return sum(life.num_parameters for life in list(self._current.values()))

    @property
    def pids(self) -> list[int]:
        """Processes of the system that are or may become stages."""
        return [pid for life in list(self._ward.lives.values()) if (pid := life.pid) is not None]

    @property
    def nursery_pid(self) -> int | None:
        """The process that the others come from."""
        return self._ward.nursery_pid

    @property
    def heir_pid(self) -> int | None:
        """The process that takes the nursery's place if it ends; None while there is none."""
        return self._ward.heir_pid

    def close(self) -> None:
        """End all stages."""
        self._is_closing = True
        self._hub.wake()
        self._thread.join()

    def _post(self, letter: _Letter) -> None:
        self._letters.put(letter)
        self._hub.wake()

    def _status(self, process: str) -> StageStatus:
        life, (device, nodes) = self._current.get(process), self.processes[process]
        return StageStatus(
            process=process,
            device=device,
            nodes=tuple(nodes),
            is_up=life is not None,
            pid=None if life is None else life.pid,
            restarts=sum(n for (name, _), n in self.restarts.items() if name == process),
            heartbeat_age_s=None if life is None else time.monotonic() - life.heard_s,
            busy_s=0.0 if life is None else life.busy_s,
            done=0 if life is None else life.done,
        )

    # for the supervisor's own thread

    def _run(self) -> None:
        try:
            while not self._is_closing:
                self._turn()
        except Exception as e:
            log.exception("the supervisor has failed")
            self._give_up(f"The supervisor has failed: {type(e).__name__}: {e}")
        finally:
            self._end_all()
            self._hub.close()

    def _turn(self) -> None:
        self._start_what_is_due(time.monotonic())
        heard = self._hub.wait(self._patience_s(time.monotonic()))
        now_s = time.monotonic()
        if now_s - self.turned_s > STALL_S + TURN_S:
            self._ward.forgive(now_s - self.turned_s)
        for peer, frames in heard.messages:
            self._hear(number_of(peer), frames, now_s)
        for handle in heard.readable:
            for life in self._ward.notice(handle):
                self._mourn(life, now_s)
        self._send_letters(now_s)
        for life in list(self._ward.lives.values()):
            found = None if life.reason else fault(self.policy, life, now_s)
            if found is not None:
                self._kill(life, *found)
        self.turned_s = now_s

    def _patience_s(self, now_s: float) -> float:
        due = [due_s - now_s for role, due_s in self._due_s.items() if role != SPARE]
        return max(0.0, min([TURN_S, *due]))

    def _start_what_is_due(self, now_s: float) -> None:
        for role in [name for name, due_s in self._due_s.items() if due_s <= now_s]:
            if role != SPARE and (spares := self._ward.spares()):
                self._ward.promote(spares[0], role, now_s)
            elif (role == SPARE and not self._wants_spare()) or not self._ward.begin(role, now_s):
                continue
            if role != SPARE:
                del self._due_s[role]

    def _wants_spare(self) -> bool:
        """Whether all stages are up, so that there is time for one more process."""
        is_calm = len(self._current) == len(self.processes)
        return is_calm and len(self._ward.spares()) < self.policy.num_spares

    def _hear(self, number: int | None, frames: Sequence[Any], now_s: float) -> None:
        life = self._ward.lives.get(number or 0)
        if life is None:
            return  # of a process that has ended: its work was given to another
        life.heard_s = now_s
        match answer := messages.answer(frames):
            case Beat():
                life.done, life.busy_s = answer.done, answer.busy_s
            case Started():
                self._welcome(life, answer)
            case Ready():
                self._install(life, answer, now_s)
            case Done() | Failed():
                life.progress_s = now_s
                life.num_answers += 1
                self._answer(life, answer, frames)

    def _welcome(self, life: Life, started: Started) -> None:
        """Refuse a process that has read another pipeline than this one, or has other plugins."""
        pipeline, plugins = self._expected
        if started.pipeline != pipeline or (plugins and started.plugins != plugins):
            other = sorted({*started.plugins} ^ {*plugins}) or ["the file of the pipeline"]
            text = "it has read something else than this worker: " + ", ".join(other)
            self._kill(life, "differs", text)
            return
        life.has_started = True
        if life.is_spare and life.role:
            self._ward.assign(life)

    def _install(self, life: Life, ready: Ready, now_s: float) -> None:
        if not ready.process:
            life.is_built = not life.role
            return
        life.is_ready, life.num_parameters = True, ready.num_parameters
        with self._changed:
            self._current[life.role] = life
            self._has_begun = len(self._current) == len(self.processes) or self._has_begun
            self._changed.notify_all()
        if self._ended_s[life.role]:
            took_s = now_s - self._ended_s[life.role][-1]
            self.recovery_s = [*self.recovery_s[-1023:], took_s]
            log.warning("stage %s is back after %.0f ms", life.role, 1e3 * took_s)

    def _answer(self, life: Life, answer: Done | Failed, frames: Sequence[Any]) -> None:
        future = life.calls.pop(answer.call, None)
        if isinstance(answer, Failed) and answer.call == 0:
            life.complaint = answer.message
        elif future is not None and isinstance(answer, Done):
            future.set_result((answer, frames))
        elif future is not None and isinstance(answer, Failed):
            future.set_exception(_error(answer))

    def _send_letters(self, now_s: float) -> None:
        for _ in range(self._letters.qsize()):
            letter = self._letters.get()
            life = self._ward.lives.get(letter.life)
            if life is None or life.reason:
                if letter.future is not None:
                    letter.future.set_exception(StageLostError("The stage has ended."))
                continue
            if letter.future is not None:
                life.progress_s = life.progress_s if life.calls else now_s
                life.calls[letter.call] = letter.future
            self._ward.send(life, letter.frames)
            self._retire_if_ended(life)

    def _kill(self, life: Life, reason: str, complaint: str) -> None:
        self._ward.kill(life, reason, complaint)
        self._retire_if_ended(life)

    def _retire_if_ended(self, life: Life) -> None:
        """Let nobody ask a process any more that is being ended."""
        if life.reason:
            with self._changed:
                if self._current.get(life.role) is life:
                    del self._current[life.role]

    def _mourn(self, life: Life, now_s: float) -> None:
        """A process has ended: fail what it had not answered, and plan for its successor."""
        life.reason = life.reason or "ended"
        self._retire_if_ended(life)
        what = f"Stage {life.role}" if life.role else "A spare process"
        life.fail(lambda: StageLostError(f"{what} has ended ({life.reason})."))
        if self._is_closing or self.fatal:
            return
        told = f": {life.complaint}" if life.complaint else ""
        log.warning("%s has ended (%s)%s", what, life.reason, told)
        if not self._has_begun:
            self._give_up(f"{what} could not be begun ({life.reason}){told}")
            return
        ended_s = self._ended_s[life.role]
        ended_s.append(now_s)
        wait_s = pause(self.policy, ended_s, now_s)
        if wait_s is not None:
            self._due_s[life.role] = now_s + wait_s
        elif life.role == SPARE:
            del self._due_s[SPARE]  # so it is without
        else:
            many = f"more than {self.policy.budget} times in {self.policy.window_s:g} s"
            self._give_up(f"{what} has ended {many}, the last time {life.reason}{told}")
            return
        if life.role:
            self.restarts[life.role, life.reason] += 1

    def _give_up(self, why: str) -> None:
        log.error("%s", why)
        with self._changed:
            self.fatal = why
            self._due_s.clear()
            self._changed.notify_all()
        for life in self._ward.lives.values():
            life.fail(lambda: StageFailedError(why))
        self.on_fatal()

    def _end_all(self) -> None:
        with self._changed:
            self._current.clear()
            self.fatal = self.fatal or "The worker has ended."
            self._changed.notify_all()
        for life in self._ward.close():
            life.fail(lambda: StageLostError("The worker is ending."))
        while not self._letters.empty():
            future = self._letters.get().future
            if future is not None:
                future.set_exception(StageLostError("The worker is ending."))


def _error(failed: Failed) -> Exception:
    """Return what the one who asked is to see."""
    kinds: dict[str, type[Exception]] = {"input": StreamInputError, "memory": MemoryError}
    return kinds.get(failed.kind, StageFailedError)(failed.message)
