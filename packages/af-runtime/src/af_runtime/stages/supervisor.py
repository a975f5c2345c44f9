"""Keeps the stages of a pipeline alive: begins them, hears them, begins them again when they end.

One thread owns the lines to the stages; any other may ask through `ask`. What a stage had not
answered when it ended fails with `StageLostError`, and the one who asked asks its successor.
"""

import itertools
import logging
import os
import queue
import select
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

import attrs
import msgspec
from af_core.errors import StreamInputError
from af_core.graph.checked import Pipeline
from af_core.graph.placement import working_processes

from af_runtime.errors import PeerGoneError, StageFailedError, StageLostError
from af_runtime.stages import messages
from af_runtime.stages.birth import Birth
from af_runtime.stages.life import Life, number_of
from af_runtime.stages.messages import Assign, Beat, Done, Failed, Ready, Started
from af_runtime.stages.nursery import Born, Nursery
from af_runtime.stages.policy import Policy, pause
from af_runtime.stages.source import fingerprint
from af_runtime.transport.stages import Hub

log = logging.getLogger(__name__)

TURN_S = 0.25
"""The loop looks around at least this often."""

STALL_S = 1.0
"""When the loop itself has stood still for longer, nobody else is blamed for the time."""

SPARE = ""
"""The role of a process that has none yet."""

WARM_ANSWERS = 8
"""So many answers of a life may take longer than later ones."""

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
        self.policy, self._birth, self._hub = policy or Policy(), birth, hub
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
        self._lives: dict[int, Life] = {}
        self._current: dict[str, Life] = {}
        self._ended_s: dict[str, list[float]] = {name: [] for name in (*self.processes, SPARE)}
        self._due_s: dict[str, float] = dict.fromkeys(self.processes, 0.0)
        self._numbers, self._calls = itertools.count(1), itertools.count(1)
        self._letters: queue.SimpleQueue[_Letter] = queue.SimpleQueue()
        self._spare_due_s: float | None = 0.0
        """From when on spares are begun; None if they have failed too often."""
        self._nursery: Nursery | None = None
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
        return [pid for life in list(self._lives.values()) if (pid := life.pid) is not None]

    @property
    def nursery_pid(self) -> int | None:
        """The process that the others come from."""
        return None if self._nursery is None else self._nursery.pid

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
            self._forgive(now_s - self.turned_s)
        for peer, frames in heard.messages:
            self._hear(number_of(peer), frames, now_s)
        for handle in heard.readable:
            self._notice(handle, now_s)
        self._send_letters(now_s)
        self._watch(now_s)
        self.turned_s = now_s

    def _patience_s(self, now_s: float) -> float:
        due = [s for s in self._due_s.values() if not self.fatal]
        return max(0.0, min([TURN_S, *(s - now_s for s in due)]))

    def _start_what_is_due(self, now_s: float) -> None:
        if self.fatal:
            return
        for process in [name for name, due_s in self._due_s.items() if due_s <= now_s]:
            del self._due_s[process]
            spares = [life for life in self._lives.values() if not life.role and not life.reason]
            spares.sort(key=lambda life: (not life.is_built, life.begun_s))
            if spares:
                self._promote(spares[0], process)
            else:
                self._begin(process, now_s)
        is_calm = len(self._current) == len(self.processes)
        is_due = self._spare_due_s is not None and self._spare_due_s <= now_s
        num_spares = sum(not life.role for life in self._lives.values())
        if is_calm and is_due and num_spares < self.policy.num_spares:
            self._begin(SPARE, now_s)

    def _begin(self, process: str, now_s: float) -> None:
        if self._nursery is None:
            self._nursery = Nursery()
            self._hub.watch(self._nursery.fileno())
        number = next(self._numbers)
        birth = msgspec.structs.replace(self._birth, name=f"life-{number}", process=process)
        try:
            lifeline = self._nursery.ask(birth, number)
        except OSError:  # it has gone, and that is about to be noticed
            self._due_s.update({process: now_s + TURN_S} if process else {})
            return
        life = Life(number, lifeline, now_s, now_s, now_s, role=process, is_spare=not process)
        self._lives[number] = life

    def _notice(self, handle: int, now_s: float) -> None:
        """Something can be read: a process has ended, or the nursery has something to tell."""
        if self._nursery is None or handle != self._nursery.fileno():
            ended = [one for one in self._lives.values() if one.born and one.born.handle == handle]
            self._bury(ended[0], now_s)
            return
        for born in self._nursery.born():
            if born is None:
                self._replace_nursery(now_s)
            else:
                self._meet(born)

    def _meet(self, born: Born) -> None:
        """A process that was asked for has come."""
        life = self._lives[born.number]
        life.born = born
        self._hub.watch(born.handle)
        if life.reason:
            born.kill()

    def _replace_nursery(self, now_s: float) -> None:
        """The nursery has ended, and with it all that came from it; each is noticed by itself."""
        log.warning("the nursery of the stages has ended")
        assert self._nursery is not None
        self._hub.forget(self._nursery.fileno())
        self._nursery.close()
        self._nursery = None
        for life in [one for one in self._lives.values() if one.born is None]:
            self._bury(life, now_s)

    def _promote(self, life: Life, process: str) -> None:
        """Give a spare its role; one that is not connected yet is told when it is."""
        life.role, life.begun_s, life.is_built = process, time.monotonic(), False
        if life.has_started:
            self._assign(life)

    def _assign(self, life: Life) -> None:
        self._send(life, messages.encode(Assign(process=life.role)))

    def _send(self, life: Life, frames: Sequence[Any]) -> None:
        try:
            self._hub.send(life.name, frames)
        except PeerGoneError as e:
            life.complaint = str(e)
            self._kill(life, "unreachable")

    def _hear(self, number: int | None, frames: Sequence[Any], now_s: float) -> None:
        life = self._lives.get(number or 0)
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
            other = sorted({*started.plugins} ^ {*plugins}) or ["the pipeline's file or weights"]
            life.complaint = "it has read something else than this worker: " + ", ".join(other)
            self._kill(life, "differs")
            return
        life.has_started = True
        if life.is_spare and life.role:
            self._assign(life)

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
            log.warning("stage %s is back after %.2f s", life.role, took_s)

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
            life = self._lives.get(letter.life)
            if life is None or life.reason:
                if letter.future is not None:
                    letter.future.set_exception(StageLostError("The stage has ended."))
                continue
            if letter.future is not None:
                life.progress_s = life.progress_s if life.calls else now_s
                life.calls[letter.call] = letter.future
            self._send(life, letter.frames)

    def _watch(self, now_s: float) -> None:
        """End what does not start, does not get on, or is not heard any more."""
        for life in list(self._lives.values()):
            if life.reason:
                continue
            work_s = self.policy.work_s
            if life.num_answers < WARM_ANSWERS:
                work_s = max(work_s, self.policy.first_work_s)
            if not (life.is_ready or life.is_built):
                if now_s - life.begun_s > self.policy.start_s:
                    life.complaint = f"it has not loaded within {self.policy.start_s:.0f} s"
                    self._kill(life, "slow")
            elif life.calls and now_s - life.progress_s > work_s:
                life.complaint = f"a piece of work has taken more than {work_s:.0f} s"
                self._kill(life, "stuck")
            elif now_s - life.heard_s > self.policy.silence_s:
                life.complaint = f"it has been silent for {self.policy.silence_s:.0f} s"
                self._kill(life, "silent")

    def _forgive(self, stood_s: float) -> None:
        """Move all times on: this process, or the whole machine, has stood still."""
        for life in self._lives.values():
            life.begun_s += stood_s
            life.heard_s += stood_s
            life.progress_s += stood_s

    def _kill(self, life: Life, reason: str) -> None:
        life.reason = reason
        self._retire(life)
        life.kill()

    def _retire(self, life: Life) -> None:
        with self._changed:
            if self._current.get(life.role) is life:
                del self._current[life.role]

    def _bury(self, life: Life, now_s: float) -> None:
        """A process has ended: fail what it had not answered, and plan for its successor."""
        life.cut()
        if life.born is not None:
            self._hub.forget(life.born.handle)
            os.close(life.born.handle)
        del self._lives[life.number]
        reason = life.reason or "ended"
        self._retire(life)
        what = life.role or "a spare"
        life.fail(lambda: StageLostError(f"Stage {what} has ended ({reason})."))
        if self._is_closing or self.fatal:
            return
        told = f": {life.complaint}" if life.complaint else ""
        log.warning("stage %s has ended (%s)%s", what, reason, told)
        if life.role:
            self._plan_restart(life, reason, now_s)
        else:
            self._ended_s[SPARE].append(now_s)
            wait_s = pause(self.policy, self._ended_s[SPARE], now_s)
            self._spare_due_s = None if wait_s is None else now_s + wait_s

    def _plan_restart(self, life: Life, reason: str, now_s: float) -> None:
        role = life.role
        told = f": {life.complaint}" if life.complaint else ""
        if not self._has_begun:
            self._give_up(f"Stage {role} could not be begun ({reason}){told}")
            return
        self._ended_s[role].append(now_s)
        wait_s = pause(self.policy, self._ended_s[role], now_s)
        if wait_s is None:
            many = f"more than {self.policy.budget} times in {self.policy.window_s:.0f} s"
            self._give_up(f"Stage {role} has ended {many}, the last time {reason}{told}")
            return
        self.restarts[role, reason] += 1
        self._due_s[role] = now_s + wait_s

    def _give_up(self, why: str) -> None:
        log.error("%s", why)
        with self._changed:
            self.fatal = why
            self._changed.notify_all()
        for life in self._lives.values():
            life.fail(lambda: StageFailedError(why))
        self.on_fatal()

    def _end_all(self) -> None:
        if self._nursery is not None:
            self._nursery.close()
        for life in self._lives.values():
            life.kill()
            if life.born is not None:
                select.select([life.born.handle], [], [])
                os.close(life.born.handle)
            life.fail(lambda: StageLostError("The worker is ending."))
        self._lives.clear()
        with self._changed:
            self._current.clear()
            self.fatal = self.fatal or "The worker has ended."
            self._changed.notify_all()
        while not self._letters.empty():
            future = self._letters.get().future
            if future is not None:
                future.set_exception(StageLostError("The worker is ending."))


def _error(failed: Failed) -> Exception:
    """Return what the one who asked is to see."""
    kinds: dict[str, type[Exception]] = {"input": StreamInputError, "memory": MemoryError}
    return kinds.get(failed.kind, StageFailedError)(failed.message)
