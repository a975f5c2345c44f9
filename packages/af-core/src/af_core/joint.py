"""One step of the engine for several streams that were opened one by one.

A batch of streams shares its plans, so it shares its age. These streams differ in age, and so in
the numbers of their blocks and in the slots that hold their frames. Both are names: streams whose
plans are equal but for them can run as one batch. The step is the ordinary one, over stages that
translate the names; whatever goes wrong, no stream has changed.
"""

from collections.abc import Hashable, Sequence
from typing import Any

import attrs
import torch
from torch import Tensor

from af_core import passes
from af_core.errors import StageContractError
from af_core.joining import kind_of
from af_core.stages.anchor_cache import AnchorCache, KeepsNoisy
from af_core.stages.denoiser import Plan
from af_core.stages.noise_source import NoiseSource
from af_core.stages.sharing import SharesPasses
from af_core.stages.window_scheduler import Emitted, Window
from af_core.stream_state import Clock, StreamState, Version
from af_core.streaming import Streamer

Stepped = tuple[Tensor | None, StreamState[Any]]
"""What ``Streamer.step`` returns."""


def stream_kind(streamer: Streamer[Any], state: StreamState[Any]) -> Hashable | None:
    """Return what streams must have in common to share their next step; None if none can.

    A stream that has not taken its first step is alone, and so is a batch.
    """
    window, pending, clock = state.window, state.pending, state.clock
    is_young = state.portrait is not None or not len(window)
    if is_young or len(state.seeds) != 1 or not isinstance(streamer.denoiser, SharesPasses):
        return None
    first = window.blocks[0]
    plan, _ = passes.window_plan(streamer, state)
    return (
        window.rungs,
        tuple(block - first for block in window.blocks),
        None if pending is None else pending.block - first,
        clock.next_block - clock.num_heard,
        kind_of((window.latents, window.audio)),
        with_names(plan)[0],
    )


def step_streams(
    streamer: Streamer[Any], states: Sequence[StreamState[Any]], audio: Sequence[Tensor]
) -> list[Stepped]:
    """Advance streams of one `stream_kind` by one block each, ``audio`` as for ``Streamer.step``.

    Raises what ``step`` raises, and then no stream has been advanced.
    """
    for state in states:
        state.require_current()
    denoiser: Any = streamer.denoiser
    shared = denoiser.share([state.memory for state in states])
    first = states[0].window.blocks[0]
    ages = tuple(state.window.blocks[0] - first for state in states)
    batch = attrs.evolve(
        streamer,
        noise=_Noise(streamer.noise, ages),
        cache=_Cache(streamer.cache, tuple(age * streamer.block_latents for age in ages)),
    )
    try:
        block, after = batch.step(_joined(denoiser, states, shared), torch.cat(list(audio)))
    except BaseException:
        shared.restore()
        raise
    blocks = [None] * len(states) if block is None else list(block.split(1))
    passed = _passed(states[0].clock, after.clock)
    parts = (_parted(after, i, state, ages[i], passed) for i, state in enumerate(states))
    return list(zip(blocks, parts, strict=True))


def with_names(plan: Plan) -> tuple[Plan, tuple[int, ...]]:
    """Return a plan whose slots are called 0, 1, 2, ... as they occur, and which they were."""
    names: dict[int, int] = {}
    occurring = [slot for slot, _ in plan.stored] + [slot for _, slot in plan.saves]
    for slot in ([] if plan.anchor_slot is None else [plan.anchor_slot]) + occurring:
        names.setdefault(slot, len(names))
    renamed = attrs.evolve(
        plan,
        stored=tuple((names[slot], position) for slot, position in plan.stored),
        saves=tuple((frame, names[slot]) for frame, slot in plan.saves),
        anchor_slot=None if plan.anchor_slot is None else names[plan.anchor_slot],
    )
    return renamed, tuple(names)


@attrs.frozen
class _Noise:
    """Draws for each stream the noise of its own block."""

    source: NoiseSource
    ages: tuple[int, ...]
    """Blocks by which each stream is older than the first."""

    def draw(self, seeds: Sequence[int], block: int, rung: int, shape: tuple[int, ...]) -> Tensor:
        """Return ``[b, *shape]``; ``block`` is the first stream's."""
        each = zip(seeds, self.ages, strict=True)
        return torch.cat([self.source.draw((s,), block + age, rung, shape) for s, age in each])


@attrs.frozen
class _Cache:
    """Plans for all streams at once; their anchors are a tuple of each one's."""

    cache: AnchorCache[Any]
    ages: tuple[int, ...]
    """Latent frames by which each stream is older than the first."""

    @property
    def num_slots(self) -> int:
        return self.cache.num_slots

    @property
    def zero_anchor_audio(self) -> bool:
        return self.cache.zero_anchor_audio

    @property
    def remembers(self) -> bool:
        return self.cache.remembers

    @property
    def keeps_noisy(self) -> bool:
        return isinstance(self.cache, KeepsNoisy) and self.cache.keeps_noisy

    def open(self) -> tuple[Any, ...]:
        return tuple(self.cache.open() for _ in self.ages)

    def prefill(self) -> Plan | None:
        return self.cache.prefill()

    def window(self, anchors: tuple[Any, ...], first_frame: int, num_frames: int) -> Plan:
        each = zip(anchors, self.ages, strict=True)
        return _one([self.cache.window(a, first_frame + age, num_frames) for a, age in each])

    def absorb(
        self, anchors: tuple[Any, ...], first_frame: int, num_frames: int
    ) -> tuple[Plan, tuple[Any, ...]]:
        each = zip(anchors, self.ages, strict=True)
        return _both([self.cache.absorb(a, first_frame + age, num_frames) for a, age in each])

    def absorb_and_window(
        self, anchors: tuple[Any, ...], first_frame: int, num_pending: int, num_frames: int
    ) -> tuple[Plan, tuple[Any, ...]]:
        each, sizes = zip(anchors, self.ages, strict=True), (num_pending, num_frames)
        return _both(
            [self.cache.absorb_and_window(a, first_frame + age, *sizes) for a, age in each]
        )

    def emit(
        self, anchors: tuple[Any, ...], first_frame: int, num_emitted: int, num_frames: int
    ) -> tuple[Plan, tuple[Any, ...]]:
        each, sizes = zip(anchors, self.ages, strict=True), (num_emitted, num_frames)
        assert isinstance(self.cache, KeepsNoisy)
        return _both([self.cache.emit(a, first_frame + age, *sizes) for a, age in each])


def _both(made: Sequence[tuple[Plan, Any]]) -> tuple[Plan, tuple[Any, ...]]:
    return _one([plan for plan, _ in made]), tuple(anchors for _, anchors in made)


def _one(plans: Sequence[Plan]) -> Plan:
    """Return the plan of all streams, with the slots of each."""
    named = [with_names(plan) for plan in plans]
    if any(plan != named[0][0] for plan, _ in named):
        raise StageContractError(
            "The anchor cache plans differently for streams that it planned alike one pass "
            "before, so they cannot share this step."
        )
    return attrs.evolve(named[0][0], slots=tuple(slots for _, slots in named))


def _joined(denoiser: Any, states: Sequence[StreamState[Any]], memory: Any) -> StreamState[Any]:
    """Return the state of one batch; its block numbers are those of the first stream."""
    first, pendings = states[0], [state.pending for state in states]
    pending = None
    if first.pending is not None:
        present = [one for one in pendings if one is not None]
        pending = Emitted(
            torch.cat([one.latents for one in present]),
            torch.cat([one.audio for one in present]),
            first.pending.block,
        )
    return StreamState(
        window=attrs.evolve(
            first.window,
            latents=torch.cat([state.window.latents for state in states]),
            audio=torch.cat([state.window.audio for state in states]),
        ),
        anchors=tuple(state.anchors for state in states),
        seeds=tuple(seed for state in states for seed in state.seeds),
        conditions=denoiser.join([state.conditions for state in states]),
        memory=memory,
        portrait=None,
        version=Version(first.clock.steps),
        pending=pending,
        clock=first.clock,
    )


def _parted(
    batch: StreamState[Any], i: int, before: StreamState[Any], age: int, passed: Clock
) -> StreamState[Any]:
    """Return the state of one stream of the batch; the one before it is stale from now on."""
    window, pending, row, clock = batch.window, batch.pending, slice(i, i + 1), before.clock
    before.version.count = clock.steps + passed.steps
    return attrs.evolve(
        before,
        window=Window(
            window.latents[row],
            window.audio[row],
            window.rungs,
            tuple(block + age for block in window.blocks),
        ),
        anchors=batch.anchors[i],
        pending=None
        if pending is None
        else Emitted(pending.latents[row], pending.audio[row], pending.block + age),
        clock=Clock(
            clock.next_block + passed.next_block,
            clock.num_heard + passed.num_heard,
            clock.steps + passed.steps,
            clock.num_forwards + passed.num_forwards,
        ),
    )


def _passed(before: Clock, after: Clock) -> Clock:
    """Return what a step has added."""
    a, b = attrs.astuple(before), attrs.astuple(after)
    return Clock(*(late - early for early, late in zip(a, b, strict=True)))
