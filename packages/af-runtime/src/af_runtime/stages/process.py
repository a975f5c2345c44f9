"""What a stage process does: builds its part, answers requests one by one, and shows that it lives.

The thread that computes owns the line of work; a second thread sends the pulse: how much was done,
and how long the present work takes. So a stage that hangs is told from one that is busy.
"""

import gc
import logging
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec
import torch
from af_core.errors import AvatarForcingError, SnapshotError, StreamInputError
from af_core.graph.checked import Pipeline
from af_core.graph.placement import working_processes
from af_core.running import Opening
from torch import Tensor

from af_runtime.stages import messages
from af_runtime.stages.birth import Birth
from af_runtime.stages.host import Host, warm_up
from af_runtime.stages.messages import (
    Assign,
    Beat,
    Done,
    Encode,
    Failed,
    Forget,
    Open,
    Prompt,
    Ready,
    Request,
    Started,
    Weights,
    Work,
)
from af_runtime.stages.ring import SharedBytes
from af_runtime.stages.source import fingerprint, plugin_set
from af_runtime.transport.stages import Line

log = logging.getLogger(__name__)


def run(birth: Birth, ring: int) -> None:
    """Be a stage until the supervisor is gone; a part that cannot be built ends the process.

    ``ring`` is the open file of the shared memory, -1 for none.
    """
    torch.set_num_threads(birth.threads)
    line = Line(birth.endpoint, birth.name.encode())
    stage = _Stage(birth, ring)
    line.pulse(stage.beat, birth.beat_s)
    try:
        line.send(messages.encode(stage.begin()))
        line.send(messages.encode(stage.take_role() or _prepared(stage, line)))
    except Exception as e:
        text = str(e) if isinstance(e, AvatarForcingError) else f"{type(e).__name__}: {e}"
        line.send(messages.encode(Failed(kind="config", message=text)))
        time.sleep(birth.beat_s)  # what was sent leaves on a thread of its own
        sys.exit(1)
    while True:
        for frames in stage.answer(line.receive()):
            line.send(frames)


def _prepared(stage: "_Stage", line: Line) -> Ready:
    """Build beforehand what a spare can, until it is told its role."""
    for _ in stage.prepare():
        if line.is_waiting:
            break
    return Ready(process="")


class _Stage:
    """The state of this process."""

    def __init__(self, birth: Birth, ring: int) -> None:
        self._birth = birth
        self._shared: SharedBytes | None = None
        if ring >= 0:
            self._shared = SharedBytes(ring, birth.ring_bytes)
        self._pipeline: Pipeline | None = None
        self._hosts: dict[str, Host] = {}
        self._host: Host | None = None
        self._done = 0
        self._busy_since_s: float | None = None

    def beat(self) -> list[Any]:
        """Return a sign of life."""
        since_s = self._busy_since_s
        busy_s = 0.0 if since_s is None else time.monotonic() - since_s
        return messages.encode(Beat(done=self._done, busy_s=busy_s))

    def begin(self) -> Started:
        """Read the pipeline, and say what was read."""
        catalog = self._birth.source.catalog()
        self._pipeline = self._birth.source.open(catalog)
        return Started(plugins=plugin_set(catalog), pipeline=fingerprint(self._pipeline))

    def take_role(self) -> Ready | None:
        """Become what this process was begun as; None for a spare."""
        return self._become(self._birth.process) if self._birth.process else None

    def prepare(self) -> Iterator[None]:
        """Build all parts that need no GPU, one a turn, then warm them up."""
        pipeline = self._read
        processes = working_processes(pipeline)
        for name, (device, _) in processes.items():
            if device == "cpu":
                self._hosts[name] = Host(pipeline, name)
                yield
        if len(self._hosts) == len(processes):
            yield from warm_up(self._hosts, pipeline)
        _settle()

    def answer(self, frames: Sequence[Any]) -> Iterator[list[Any]]:
        """Yield the answers to a request, as frames; whatever goes wrong is an answer."""
        message = messages.request(frames)
        self._busy_since_s = time.monotonic()
        try:
            given = messages.tensors(message, frames, self._shared)
            if isinstance(message, Work):
                yield self._work(message, given, messages.snapshot(message, frames))
            else:
                yield from self._answers(message, given)
        except StreamInputError as e:
            yield self._failed(message, "input", str(e))
        except (torch.OutOfMemoryError, MemoryError) as e:
            torch.cuda.empty_cache()  # does nothing where there is no CUDA
            yield self._failed(message, "memory", str(e))
        except Exception as e:
            log.exception("a piece of work has failed")
            yield self._failed(message, "fault", f"{type(e).__name__}: {e}")
        finally:
            self._busy_since_s = None
            self._done += 1

    def _answers(self, message: Request, given: dict[str, Tensor]) -> Iterator[list[Any]]:
        if isinstance(message, Assign):
            yield messages.encode(self._become(message.process))
            return
        host, done = self._role, Done(call=message.call)
        match message:
            case Forget():
                host.forget(message.stream)
            case Encode():
                yield messages.encode(done, {"latent": host.encode(given["image"])})
            case Prompt():
                text = host.text()
                yield messages.encode(done, {} if text is None else {"text": text})
            case Weights():
                yield messages.encode(msgspec.structs.replace(done, told=host.weights()))
            case Open():
                opening = Opening(
                    len(message.seeds),
                    given["portrait"],
                    message.seeds,
                    given.get("text"),
                    given.get("image"),
                )
                host.open(message.stream, message.leg, opening)
                yield self._with_snapshot(done, message.stream, {})

    def _work(self, message: Work, given: dict[str, Tensor], snapshot: Any) -> list[Any]:
        host, text = self._role, given.pop("text", None)
        if snapshot is not None:
            host.restore(message.stream, message.leg, snapshot, text)
        began, made, emitted = time.perf_counter(), dict[str, Tensor](), 0
        if message.is_interruption:
            emitted = host.interrupt(message.stream)
        else:
            made = host.work(message.stream, given, is_last=message.is_last)
        seconds = time.perf_counter() - began
        done = Done(call=message.call, seconds=seconds, num_emitted=emitted)
        room = (message.offset, message.room)
        if not message.wants_snapshot:
            return messages.encode(done, made, self._shared, room=room)
        return self._with_snapshot(done, message.stream, made, room)

    def _with_snapshot(
        self,
        done: Done,
        stream: int,
        made: Mapping[str, Tensor],
        room: tuple[int, int] = (-1, 0),
    ) -> list[Any]:
        """Answer with a snapshot; what cannot be put into one works without."""
        saved, why, began = None, "", time.thread_time()
        try:
            saved = self._role.snapshot(stream)
        except SnapshotError as e:
            why = str(e)
        done = msgspec.structs.replace(
            done,
            has_snapshot=saved is not None,
            no_snapshot=why,
            snapshot_s=time.thread_time() - began,
        )
        return messages.encode(done, made, self._shared, room=room, snapshot=saved)

    def _failed(self, message: Request, kind: str, text: str) -> list[Any]:
        """Tell that a request has failed; the stream it was for is no more."""
        if self._host is not None and isinstance(message, Open | Work):
            self._host.forget(message.stream)
        return messages.encode(Failed(call=message.call, kind=kind, message=text))

    @property
    def _read(self) -> Pipeline:
        assert self._pipeline is not None, "the pipeline was not read"
        return self._pipeline

    @property
    def _role(self) -> Host:
        assert self._host is not None, "work before a role"
        return self._host

    def _become(self, process: str) -> Ready:
        """Take a role: build its part, or take the one that is built, and let the others go."""
        built = self._hosts.pop(process, None)
        self._host = built or Host(self._read, process)
        self._hosts = {}
        if self._shared is not None and self._host.device.startswith("cuda"):
            pinned = self._shared.pin()
            log.info("shared memory is %s", "pinned" if pinned else "not pinned")
        if built is None:
            _settle()
        return Ready(process=process, num_parameters=self._host.num_parameters)


def _settle() -> None:
    """Let the garbage collector forget what stays for ever."""
    gc.collect()
    gc.freeze()
