"""The supervisor's side of a stream: an avatar whose nodes are somewhere else.

Each leg of the way through the pipeline is a runner like any other. Its state is a number, and
what another process needs to go on from there: a snapshot, and what was heard since it was made.
"""

import hashlib
import itertools
import math
import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import torch
from af_core.errors import SnapshotError, StaleStreamStateError
from af_core.geometry import VIDEO_FPS
from af_core.graph.checked import Pipeline
from af_core.graph.placement import Leg, legs, working_processes
from af_core.pipeline import Avatar, configuration_of, describe
from af_core.ports import Format
from af_core.running import Opening, Reopening, Runner, Values
from af_core.snapshots.identity import Identity
from torch import Tensor

from af_runtime.errors import StageFailedError, StageLostError
from af_runtime.stages import messages
from af_runtime.stages.life import Life
from af_runtime.stages.messages import Done, Encode, Forget, Open, Prompt, Weights, Work
from af_runtime.stages.ring import Lease, Ring
from af_runtime.stages.supervisor import Supervisor

_numbers = itertools.count(1)

SNAPSHOT_SHARE = 0.02
"""Of the time that a block lasts, what snapshots may take."""

MOST_SINCE = 64
"""Pieces of work that are remembered to be done again (pixels: one, they would fill the shared
memory); a stream that needs more is not kept."""


@attrs.define(eq=False)
class _Handle:
    """A batch of streams in one leg; when nobody holds it any more, the stage forgets it."""

    number: int
    opening: Opening
    """With what the streams began; without the portraits themselves."""
    why_lost: str = ""
    """Why there are no snapshots, if there are none."""
    snapshot_s: float = math.inf
    """CPU time that the quickest snapshot so far took to make."""
    moment: int = 0
    """How many pieces of work its stage has done for it."""
    life: int = 0
    """The process that knows it at that moment."""


@attrs.frozen(eq=False)
class _Piece:
    """Something that a stage was given to do."""

    inputs: Values
    is_last: bool = False
    is_interruption: bool = False


@attrs.frozen(eq=False)
class LegState:
    """What is known here of a batch of streams in one leg."""

    handle: _Handle
    moment: int
    snapshot: Any
    """What it remembered at an earlier moment, as bytes; None if that cannot be told."""
    since: tuple[_Piece, ...] = ()
    """What it was given since then."""
    num_emitted: int = 0
    """After an interruption: blocks that have come out of the denoiser."""


@attrs.frozen(eq=False)
class _Saved:
    """What another front needs to go on with a batch of streams in one leg."""

    portrait: Tensor
    seeds: tuple[int, ...]
    data: Tensor
    """The stage's own snapshot, uint8 [n]."""


@attrs.frozen(eq=False)
class Desk:
    """Asks the processes of one leg."""

    supervisor: Supervisor
    process: str

    def ask(self, header: Any, given: Mapping[str, Tensor]) -> tuple[Done, Sequence[Any], int]:
        """Ask something that needs no memory; whoever is the stage then may answer."""

        def once(life: Life) -> tuple[Done, Sequence[Any], int]:
            def make(call: int) -> list[Any]:
                return messages.encode(messages.numbered(header, call), given)

            return *self.supervisor.ask(life, make), life.number

        return self.insist(once)

    def forget(self, stream: int) -> None:
        """Tell the stage that a batch of streams is over."""
        self.supervisor.tell(self.process, lambda _: messages.encode(Forget(stream=stream)))

    def insist(self, once: Any) -> Any:
        """Return what ``once(life)`` returns, tried again when the stage ends meanwhile."""
        for attempt in itertools.count(1):
            try:
                return once(self.supervisor.life(self.process))
            except StageLostError as e:
                if attempt >= self.supervisor.policy.attempts:
                    text = f"{e} It is the {attempt}. that has ended over one piece of work."
                    raise StageFailedError(text) from e
        raise AssertionError("counts for ever")


@attrs.frozen(eq=False)
class LegRunner:
    """Runs one leg in its process; see ``af_core.running.Runner``. Ports are ``node.port``."""

    desk: Desk
    ring: Ring
    leg: Leg
    index: int
    snapshot_every: int
    """Pieces of work from one snapshot to the next, at least."""
    most_since: int
    """Pieces that may be remembered to be done again."""
    frame_bytes: int
    """Bytes of one frame of the pixels that it makes; 0 if it makes none."""
    frames_per_block: int
    owed_frames: int
    """Frames that it may still owe when speech ends."""
    frames_an_item: Mapping[str, float]
    """Frames of video that one item of an input lasts."""

    def open(self, opening: Opening) -> LegState:
        """See ``Runner.open``."""
        given = {"portrait": opening.portrait, "image": opening.image, "text": opening.text}
        handle = self._handle(attrs.evolve(opening, image=None))
        header = Open(stream=handle.number, leg=self.index, seeds=tuple(opening.seeds))
        done, frames, handle.life = self.desk.ask(
            header, {name: value for name, value in given.items() if value is not None}
        )
        handle.why_lost = done.no_snapshot
        return LegState(handle, 0, messages.snapshot(done, frames))

    def step(self, state: LegState, inputs: Values) -> tuple[dict[str, Tensor], LegState]:
        """See ``Runner.step``."""
        return self._work(state, _Piece(dict(inputs)), self._num_frames(inputs))

    def flush(self, state: LegState) -> tuple[dict[str, Tensor], LegState]:
        """See ``Runner.flush``."""
        num_streams = state.handle.opening.num_streams
        return self._work(state, _Piece({}, is_last=True), num_streams * self.owed_frames)

    def interrupt(self, state: LegState) -> LegState:
        """See ``DenoiseRunner.interrupt``; for the leg that is the denoiser alone."""
        return self._work(state, _Piece({}, is_interruption=True), 0)[1]

    def reopening(self, state: LegState) -> Opening:
        """Return with what the nodes that listen for these streams were opened."""
        return state.handle.opening

    def num_emitted(self, state: LegState) -> int:
        """Return the blocks that have come out of streams that were just interrupted."""
        return state.num_emitted

    def snapshot(self, state: LegState) -> _Saved:
        """See ``Runner.snapshot``; raises ``SnapshotError`` if the stage cannot make one."""
        if state.since or state.snapshot is None:
            _, state = self._work(state, _Piece({}), 0, wants=True)
        if state.snapshot is None or state.since:
            raise SnapshotError(state.handle.why_lost)
        data = torch.frombuffer(bytearray(state.snapshot), dtype=torch.uint8)
        opening = state.handle.opening
        return _Saved(opening.portrait, tuple(opening.seeds), data)

    def restore(self, saved: _Saved, reopening: Reopening) -> LegState:
        """See ``Runner.restore``; the stage is told when there is work."""
        num_streams, text = len(saved.portrait), reopening.text
        handle = self._handle(Opening(num_streams, saved.portrait, saved.seeds, text))
        return LegState(handle, 0, saved.data.numpy().data)

    def _handle(self, opening: Opening) -> _Handle:
        handle = _Handle(next(_numbers), opening)
        weakref.finalize(handle, self.desk.forget, handle.number).atexit = False
        return handle

    def _work(
        self, state: LegState, piece: _Piece, num_frames: int, *, wants: bool = False
    ) -> tuple[dict[str, Tensor], LegState]:
        handle = state.handle
        if handle.moment != state.moment and state.snapshot is None:
            raise StaleStreamStateError("This state has been stepped already; keep the newer one.")
        num_bytes = num_frames * self.frame_bytes
        lease = self.ring.lease(num_bytes) if num_bytes else None
        is_due = len(state.since) + 1 >= self._every(handle) and state.snapshot is not None
        wants = wants or (is_due and not piece.is_last)

        def once(life: Life) -> tuple[Done, Sequence[Any], int]:
            if (handle.life, handle.moment) == (life.number, state.moment):
                return *self._send(life, state, piece, lease, wants=wants), life.number
            first, *others = (*state.since, piece)
            answer = self._send(life, state, first, lease, wants=wants, anew=True)
            for other in others:
                answer = self._send(life, state, other, lease, wants=wants)
            return *answer, life.number

        try:
            done, frames, life = self.desk.insist(once)
        except BaseException:
            handle.life = 0
            if lease is not None:
                self.ring.release(lease)
            raise
        handle.life, handle.moment = life, handle.moment + 1
        made, saved = self._received(done, frames, lease), messages.snapshot(done, frames)
        handle.why_lost = done.no_snapshot or handle.why_lost
        if saved is not None:
            handle.snapshot_s = min(handle.snapshot_s, done.snapshot_s)
        emitted = done.num_emitted
        if saved is not None:
            return made, LegState(handle, handle.moment, saved, (), emitted)
        if state.snapshot is None or len(state.since) >= self.most_since:
            return made, LegState(handle, handle.moment, None, (), emitted)
        since = (*state.since, piece)
        return made, LegState(handle, handle.moment, state.snapshot, since, emitted)

    def _send(
        self,
        life: Life,
        state: LegState,
        piece: _Piece,
        lease: Lease | None,
        *,
        wants: bool,
        anew: bool = False,
    ) -> tuple[Done, Sequence[Any]]:
        """Give a piece of work to a process; ``anew`` if it does not know the stream."""
        handle, given = state.handle, dict(piece.inputs)
        if anew and state.snapshot is None:
            raise StageFailedError(
                f"Stage {self.desk.process} has ended, and nobody else knew what it remembered of "
                f"this stream. {handle.why_lost}"
            )
        if anew and handle.opening.text is not None:
            given["text"] = handle.opening.text
        header = Work(
            stream=handle.number,
            leg=self.index,
            is_last=piece.is_last,
            is_interruption=piece.is_interruption,
            has_snapshot=anew,
            wants_snapshot=wants,
            offset=-1 if lease is None else lease.first * self.ring.slot_bytes,
            room=0 if lease is None else lease.count * self.ring.slot_bytes,
        )

        def make(call: int) -> list[Any]:
            snapshot = state.snapshot if anew else None
            numbered = messages.numbered(header, call)
            return messages.encode(numbered, given, self.ring.memory, snapshot=snapshot)

        return self.desk.supervisor.ask(life, make)

    def _received(
        self, done: Done, frames: Sequence[Any], lease: Lease | None
    ) -> dict[str, Tensor]:
        """Return what was made. A single tensor of pixels stays where it is, others are copied."""
        shared = [field for field in done.fields if field.offset >= 0]
        if lease is not None and len(shared) == 1:
            (field,) = shared
            made = {field.name: self.ring.lent(lease, field.offset, field.shape)}
        else:
            made = {f.name: self.ring.memory.tensor(f.offset, f.shape).clone() for f in shared}
            if lease is not None:
                self.ring.release(lease)
        return made | messages.tensors(done, frames, None)

    def _every(self, handle: _Handle) -> int:
        """Return the pieces of work from one snapshot to the next: more if one takes long."""
        block_s = self.frames_per_block / VIDEO_FPS
        if math.isinf(handle.snapshot_s):
            return self.snapshot_every
        worth = math.ceil(handle.snapshot_s / (SNAPSHOT_SHARE * block_s))
        return min(self.most_since, max(self.snapshot_every, worth))

    def _num_frames(self, inputs: Values) -> int:
        """Return how many frames of pixels these inputs may make, in whole blocks."""
        counts = [
            value.shape[1] * self.frames_an_item.get(name, 1.0) for name, value in inputs.items()
        ]
        blocks = math.ceil(max(counts, default=0.0) / self.frames_per_block)
        return blocks * self.frames_per_block * max(v.shape[0] for v in inputs.values())


@attrs.frozen(eq=False)
class RemoteEncoder:
    """The image encoder, in the process where it was placed."""

    desk: Desk

    def encode(self, images: Tensor) -> Tensor:
        """Encode portraits uint8 [b, H, W, 3] to normalised latents [b, 1, c, h, w]."""
        done, frames, _ = self.desk.ask(Encode(), {"image": images})
        return messages.tensors(done, frames, None)["latent"]


def staged_avatar(
    pipeline: Pipeline, supervisor: Supervisor, ring: Ring, *, snapshot_every: int = 1
) -> Avatar:
    """Return an avatar that is drawn by the stages of a supervisor, once all of them are up."""
    supervisor.wait()
    way = legs(pipeline)
    owner = {node: p for p, (_, nodes) in working_processes(pipeline).items() for node in nodes}
    info = describe(pipeline, supervisor.num_parameters)
    owed = math.ceil(info.lookahead_ms * info.fps / 1000) + info.frames_per_block
    maker = {output: leg.name for leg in way for output in leg.outputs}
    runners: dict[str, Runner] = {}
    wires: dict[str, dict[str, str]] = {}
    for index, leg in enumerate(way):
        takes = {name: _format(pipeline, name) for name in leg.inputs}
        is_of_pixels = any(taken.media == "frames" for taken in takes.values())
        makes = [_format(pipeline, name) for name in leg.outputs]
        runners[leg.name] = LegRunner(
            desk=Desk(supervisor, leg.process),
            ring=ring,
            leg=leg,
            index=index,
            snapshot_every=snapshot_every,
            most_since=1 if is_of_pixels else MOST_SINCE,
            frame_bytes=sum(_frame_bytes(made) for made in makes),
            frames_per_block=info.frames_per_block,
            owed_frames=owed,
            frames_an_item={name: _frames_an_item(taken) for name, taken in takes.items()},
        )
        wires[leg.name] = {n: f"{maker[n]}.{n}" if n in maker else n for n in leg.inputs}
    text = _prompt(supervisor, owner)

    def weights() -> list[str]:
        desks = (Desk(supervisor, process) for process in sorted(supervisor.processes))
        return [desk.ask(Weights(), {})[0].told for desk in desks]

    return Avatar(
        info=info,
        geometry=pipeline.geometry,
        encode_portrait=RemoteEncoder(Desk(supervisor, owner["image_encoder"])),
        runners=runners,
        wires=wires,
        output=f"{maker[pipeline.output]}.{pipeline.output}",
        text=text,
        identity=Identity(_configuration(pipeline), text=text, elsewhere=weights),
    )


def ring_slot_bytes(pipeline: Pipeline) -> int:
    """Return the bytes of one block of the largest pixels that cross between processes."""
    made = [_format(pipeline, name) for leg in legs(pipeline) for name in leg.outputs]
    return max(map(_frame_bytes, made), default=1) * pipeline.geometry.frames_per_block


def _configuration(pipeline: Pipeline) -> str:
    """Return the hash of what snapshots must agree in: here, in how the pipeline is cut too."""
    cut = "".join(f"/{leg.name}" for leg in legs(pipeline))
    return hashlib.sha256((configuration_of(pipeline) + cut).encode()).hexdigest()


def _prompt(supervisor: Supervisor, owner: Mapping[str, str]) -> Tensor | None:
    if "text_encoder" not in owner:
        return None
    done, frames, _ = Desk(supervisor, owner["text_encoder"]).ask(Prompt(), {})
    return messages.tensors(done, frames, None).get("text")


def _format(pipeline: Pipeline, source: str) -> Format:
    made = pipeline.graph.format_of(source)
    assert made is not None, f"{source} has no format"
    return made


def _frame_bytes(made: Format) -> int:
    """Return the bytes of one frame of pixels; 0 for anything else."""
    sides = [side if isinstance(side, int) else 0 for side in (made.height, made.width)]
    return 3 * math.prod(sides) if made.media == "frames" else 0


def _frames_an_item(taken: Format) -> float:
    return VIDEO_FPS / taken.rate_hz if isinstance(taken.rate_hz, int | float) else 1.0
