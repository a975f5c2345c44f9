"""Checks for anchor caches: plans that fit the memory, and that settle into one shape.

``block`` is the latent frames of a block, ``slots`` the blocks of a window.
"""

from collections.abc import Callable
from typing import Any

import attrs

from af_core.stages.denoiser import Plan

Make = Callable[[], Any]

STREAM = 40
"""Blocks of the streams these checks run."""


@attrs.frozen
class Moment:
    """A stream before its next window: the anchors, and the absolute latent of the head."""

    anchors: Any
    first_frame: int


def plans_name_slots_that_exist(make: Make, *, block: int = 2, slots: int = 3) -> None:
    """Every slot that a plan reads or writes lies in the memory that was asked for."""
    cache = make()
    for plan in _plans(cache, block, slots):
        used = [slot for slot, _ in plan.stored] + [slot for _, slot in plan.saves]
        used += [] if plan.anchor_slot is None else [plan.anchor_slot]
        assert all(0 <= slot < cache.num_slots for slot in used), (
            f"slots {used} of {cache.num_slots}: {plan}"
        )


def plans_cover_their_frames_in_order(make: Make, *, block: int = 2, slots: int = 3) -> None:
    """Segments cover the frames of a pass without gaps, and see no frame that is not there."""
    for plan in _plans(make(), block, slots):
        edges = [0, *(segment.stop for segment in plan.segments)]
        starts = [segment.start for segment in plan.segments]
        assert starts == edges[:-1] and edges[-1] == len(plan.positions), f"gaps in {plan}"
        for segment in plan.segments:
            assert 0 <= segment.sees_from <= segment.start, f"{segment} misses itself"
            assert 0 <= segment.recalls_from <= len(plan.stored), f"{segment} in {plan}"


def reads_only_what_was_written(make: Make, *, block: int = 2, slots: int = 3) -> None:
    """A slot is read only after a pass has written it."""
    cache = make()
    prefill = cache.prefill()
    written = {slot for _, slot in prefill.saves} if prefill else set()
    for moment in _moments(cache, block):
        _require_written(cache.window(moment.anchors, moment.first_frame, block * slots), written)
        if cache.remembers:
            plan, _ = cache.absorb(moment.anchors, moment.first_frame, block)
            _require_written(plan, written)
            written |= {slot for _, slot in plan.saves}


def puts_the_past_before_the_window(make: Make, *, block: int = 2, slots: int = 3) -> None:
    """In a window pass the window starts at 0 and remembered frames end at -1, oldest first."""
    cache = make()
    for moment in _moments(cache, block):
        plan = cache.window(moment.anchors, moment.first_frame, block * slots)
        assert plan.positions == tuple(range(block * slots)), f"window at {plan.positions}"
        past = [position for _, position in plan.stored]
        assert past == list(range(-len(past), 0)), f"past at {past}"
        assert len({slot for slot, _ in plan.stored}) == len(past), f"a slot twice in {plan}"


def settles_into_steps_of_one_size(make: Make, *, block: int = 2, slots: int = 3) -> None:
    """After a warm-up every step sees as many frames as the last, however old the stream is."""
    cache = make()
    sizes = [
        len(cache.window(moment.anchors, moment.first_frame, block * slots).stored)
        for moment in _moments(cache, block)
    ]
    assert len(set(sizes[STREAM // 2 :])) == 1, f"frames remembered still change: {sizes}"


def absorbs_alone_as_with_the_window(make: Make, *, block: int = 2, slots: int = 3) -> None:
    """The longer pass writes the same frames and leaves the same anchors as the separate one."""
    cache = make()
    if not cache.remembers:
        return
    for moment in _moments(cache, block):
        alone, after_alone = cache.absorb(moment.anchors, moment.first_frame, block)
        fused, after_fused = cache.absorb_and_window(
            moment.anchors, moment.first_frame, block, block * slots
        )
        assert after_alone == after_fused, "the two ways leave other anchors behind"
        assert set(alone.saves) == set(fused.saves), f"{alone.saves} and {fused.saves}"
        assert fused.num_silent == block, f"{fused.num_silent} silent frames, not {block}"


def remembers_only_in_its_anchors(make: Make, *, block: int = 2, slots: int = 3) -> None:
    """Asking again from the same anchors gives the same plan."""
    cache = make()
    for moment in _moments(cache, block):
        first = cache.window(moment.anchors, moment.first_frame, block * slots)
        again = cache.window(moment.anchors, moment.first_frame, block * slots)
        assert again == first, "another plan from the same anchors"


def _moments(cache: Any, block: int) -> list[Moment]:
    """Return the stream before its first, second, ... window."""
    moments = [Moment(cache.open(), 1)]
    while len(moments) < STREAM:
        last = moments[-1]
        after = last.anchors
        if cache.remembers:
            _, after = cache.absorb(last.anchors, last.first_frame, block)
        moments.append(Moment(after, last.first_frame + block))
    return moments


def _plans(cache: Any, block: int, slots: int) -> list[Plan]:
    prefill = cache.prefill()
    plans = [prefill] if prefill else []
    for at in _moments(cache, block):
        plans.append(cache.window(at.anchors, at.first_frame, block * slots))
        if cache.remembers:
            plans.append(cache.absorb(at.anchors, at.first_frame, block)[0])
            fused = cache.absorb_and_window(at.anchors, at.first_frame, block, block * slots)
            plans.append(fused[0])
    return plans


def _require_written(plan: Plan, written: set[int]) -> None:
    read = {slot for slot, _ in plan.stored}
    read |= set() if plan.anchor_slot is None else {plan.anchor_slot}
    assert read <= written, f"slots {sorted(read - written)} are read before they are written"


CHECKS = (
    plans_name_slots_that_exist,
    plans_cover_their_frames_in_order,
    reads_only_what_was_written,
    puts_the_past_before_the_window,
    settles_into_steps_of_one_size,
    absorbs_alone_as_with_the_window,
    remembers_only_in_its_anchors,
)
