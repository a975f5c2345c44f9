"""Checks for anchor caches: plans that fit the memory, and that settle into one shape."""

from collections.abc import Callable
from typing import Any

from af_core.stages.denoiser import Plan

Make = Callable[[], Any]

STREAM = 40
"""Blocks of the streams these checks run."""


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
    anchors = cache.open()
    for _ in range(STREAM):
        plan = cache.window(anchors, block * slots)
        _require_written(plan, written)
        if not cache.wants(anchors):
            return
        plan, anchors = cache.absorb(anchors, block)
        _require_written(plan, written)
        written |= {slot for _, slot in plan.saves}


def puts_the_past_before_the_window(make: Make, *, block: int = 2, slots: int = 3) -> None:
    """In a window pass the window starts at 0 and remembered frames end at -1, oldest first."""
    cache = make()
    for anchors in _states(cache, block):
        plan = cache.window(anchors, block * slots)
        assert plan.positions == tuple(range(block * slots)), f"window at {plan.positions}"
        past = [position for _, position in plan.stored]
        assert past == sorted(past) and all(p < 0 for p in past), f"past at {past}"
        assert len({slot for slot, _ in plan.stored}) == len(past), f"a slot twice in {plan}"


def settles_into_one_plan_a_step(make: Make, *, block: int = 2, slots: int = 3) -> None:
    """After a warm-up the plans repeat: a step costs the same however old the stream is."""
    cache = make()
    seen = [cache.window(anchors, block * slots).positions for anchors in _states(cache, block)]
    sizes = [len(cache.window(a, block * slots).stored) for a in _states(cache, block)]
    assert len(set(seen[STREAM // 2 :])) == 1, "positions of the window still change"
    assert len(set(sizes[STREAM // 2 :])) == 1, f"frames remembered still change: {sizes}"


def absorbs_alone_as_with_the_window(make: Make, *, block: int = 2, slots: int = 3) -> None:
    """The longer pass writes the same frames and leaves the same anchors as the separate one."""
    cache = make()
    for anchors in _states(cache, block):
        if not cache.wants(anchors):
            return
        alone, after_alone = cache.absorb(anchors, block)
        fused, after_fused = cache.absorb_and_window(anchors, block, block * slots)
        assert after_alone == after_fused, "the two ways leave other anchors behind"
        assert set(alone.saves) == set(fused.saves), f"{alone.saves} and {fused.saves}"


def remembers_only_in_its_anchors(make: Make, *, block: int = 2, slots: int = 3) -> None:
    """Asking again from the same anchors gives the same plan."""
    cache = make()
    for anchors in _states(cache, block):
        first = cache.window(anchors, block * slots)
        assert cache.window(anchors, block * slots) == first, "another plan from the same anchors"


def _states(cache: Any, block: int) -> list[Any]:
    """Return the anchors after 0, 1, 2, ... emitted blocks."""
    states = [cache.open()]
    while len(states) < STREAM and cache.wants(states[-1]):
        states.append(cache.absorb(states[-1], block)[1])
    return states


def _plans(cache: Any, block: int, slots: int) -> list[Plan]:
    prefill = cache.prefill()
    plans = [prefill] if prefill else []
    for anchors in _states(cache, block):
        plans.append(cache.window(anchors, block * slots))
        if cache.wants(anchors):
            plans.append(cache.absorb(anchors, block)[0])
            plans.append(cache.absorb_and_window(anchors, block, block * slots)[0])
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
    settles_into_one_plan_a_step,
    absorbs_alone_as_with_the_window,
    remembers_only_in_its_anchors,
)
