"""Checks for window schedulers, driven over made-up blocks as a stream would drive them."""

from collections.abc import Callable
from typing import Any

import attrs
import torch

from af_core.errors import StreamEndedError
from af_core.stages.window_scheduler import Window
from af_core.testing.conformance.common import keeps_nothing, same

Make = Callable[[], Any]

BLOCK = (1, 2, 1, 1)
"""Latents of a made-up block: f, c, h, w."""
AUDIO = (1, 1, 2)
"""Audio vectors of a made-up block: f, i, m."""


@attrs.frozen
class Ride:
    """What happened to the blocks of a finite stream."""

    emitted: tuple[int, ...]
    """Blocks in the order in which they came out."""
    rungs: dict[int, tuple[int, ...]]
    """Rungs on which each block was denoised."""
    widths: tuple[int, ...]
    """Slots in use at each pass."""
    forecast_errors: tuple[str, ...]
    """Places where ``lower_rungs`` promised something else than what came."""
    window: Window
    latents: tuple[torch.Tensor, ...]
    """Emitted latents."""
    audio: tuple[float, ...]
    """The mark carried by the audio of each emitted block."""


def empty_window(num_streams: int = 1) -> Window:
    """Return a window without blocks."""
    latents = torch.empty(num_streams, 0, *BLOCK)
    return Window(latents, torch.empty(num_streams, 0, *AUDIO))


def ride(scheduler: Any, num_blocks: int, num_streams: int = 1) -> Ride:
    """Let so many blocks in, one per step, then drain; block k is marked by the number k.

    AssertionError if a block leaves before the last pass of a step: a stream would lose it.
    """
    window, step = empty_window(num_streams), 0
    emitted: list[Any] = []
    rungs: dict[int, tuple[int, ...]] = {}
    widths: list[int] = []
    wrong: list[str] = []
    while step < num_blocks or len(window):
        if step < num_blocks:
            mark = torch.full((num_streams, *BLOCK), float(step))
            audio = torch.full((num_streams, *AUDIO), float(step))
            window = scheduler.admit(window, mark, audio, step)
        for turn in range(scheduler.num_passes):
            where = f"pass {turn + 1} of {scheduler.num_passes} of step {step}"
            assert len(window), f"the window is empty before {where}"
            widths.append(len(window))
            for block, rung in zip(window.blocks, window.rungs, strict=True):
                rungs[block] = (*rungs.get(block, ()), rung)
            promised = scheduler.lower_rungs(window)
            fresh = torch.zeros(num_streams, len(promised), *BLOCK)
            out, window = scheduler.advance(window, window.latents * 0.5, fresh)
            assert out is None or turn == scheduler.num_passes - 1, (
                f"block {out.block} was emitted in {where}: a block may leave in the last pass only"
            )
            emitted += [] if out is None else [out]
            found = tuple(zip(window.blocks, window.rungs, strict=True))
            wrong += [] if promised == found else [f"promised {promised}, found {found}"]
        step += 1
        assert step < num_blocks + 100, "the window never drained"
    return Ride(
        tuple(out.block for out in emitted),
        rungs,
        tuple(widths),
        tuple(wrong),
        window,
        tuple(out.latents for out in emitted),
        tuple(float(out.audio.mean()) for out in emitted),
    )


LENGTHS = (1, 2, 3, 5, 12)


def emits_every_block_once_in_order(make: Make) -> None:
    """However short the stream, each admitted block comes out once, in order, with its audio."""
    for count in LENGTHS:
        got = ride(make(), count)
        want = tuple(range(count))
        assert got.emitted == want, f"{count} blocks came out as {got.emitted}"
        assert got.audio == want, f"blocks {want} came out with the audio of {got.audio}"


def takes_every_block_down_the_whole_ladder(make: Make) -> None:
    """Each block starts at the top rung and is denoised on every rung down to 0."""
    scheduler = make()
    want = tuple(reversed(range(len(scheduler.sigmas))))
    for count in LENGTHS:
        for block, rungs in ride(scheduler, count).rungs.items():
            assert rungs == want, f"block {block} of {count} stood on rungs {rungs}, not {want}"


def has_a_ladder_that_rises_to_one(make: Make) -> None:
    """Its noise levels rise strictly to 1.0 and each rung has its timestep."""
    scheduler = make()
    sigmas = scheduler.sigmas
    assert bool((sigmas.diff() > 0).all()), f"the levels do not rise: {sigmas.tolist()}"
    assert float(sigmas[-1]) == 1.0, f"the top level is {float(sigmas[-1])}, not 1.0"
    count = len(scheduler.timesteps)
    assert count == len(sigmas), f"{count} timesteps for {len(sigmas)} levels"


def holds_no_more_blocks_than_it_declares(make: Make) -> None:
    """The window never has more than num_slots blocks, and reaches that many."""
    scheduler = make()
    widths = ride(scheduler, 3 * scheduler.num_slots + 1).widths
    assert max(widths) == scheduler.num_slots, (
        f"up to {max(widths)} blocks, declared {scheduler.num_slots}"
    )


def tells_before_what_it_renoises(make: Make) -> None:
    """lower_rungs(window) is what advance leaves in the window."""
    wrong = ride(make(), 6).forecast_errors
    assert not wrong, wrong[0]


def delays_by_its_window(make: Make) -> None:
    """The first block comes out once num_slots blocks have been heard, then one for each."""
    scheduler = make()
    window, seen = empty_window(), []
    for step in range(scheduler.num_slots + 3):
        mark = torch.zeros(1, *BLOCK)
        window = scheduler.admit(window, mark, torch.zeros(1, *AUDIO), step)
        count = 0
        for _ in range(scheduler.num_passes):
            fresh = torch.zeros(1, len(scheduler.lower_rungs(window)), *BLOCK)
            out, window = scheduler.advance(window, window.latents, fresh)
            count += out is not None
        seen.append(count)
    want = [0] * (scheduler.num_slots - 1) + [1] * 4
    assert seen == want, f"blocks came out as {seen}, not {want}"


def refuses_blocks_once_it_drains(make: Make) -> None:
    """A window that has begun to drain says that the stream has ended."""
    scheduler = make()
    if scheduler.num_slots < 2:
        return  # a window of one block is empty after each step and never drains
    window = scheduler.admit(empty_window(), torch.zeros(1, *BLOCK), torch.zeros(1, *AUDIO), 0)
    for _ in range(scheduler.num_passes * 2):
        fresh = torch.zeros(1, len(scheduler.lower_rungs(window)), *BLOCK)
        _, window = scheduler.advance(window, window.latents, fresh)
    if not len(window):
        return
    try:
        scheduler.admit(window, torch.zeros(1, *BLOCK), torch.zeros(1, *AUDIO), 1)
    except StreamEndedError:
        return
    raise AssertionError("a draining window took a new block without StreamEndedError")


def begins_anew_from_an_empty_window(make: Make) -> None:
    """After an interruption the blocks go on where those ended that came out."""
    scheduler = make()
    window, blocks = empty_window(), []
    for step in range(scheduler.num_slots + 2):
        mark, audio = torch.zeros(1, *BLOCK), torch.zeros(1, *AUDIO)
        window = scheduler.admit(window, mark, audio, 7 + step)
        for _ in range(scheduler.num_passes):
            fresh = torch.zeros(1, len(scheduler.lower_rungs(window)), *BLOCK)
            out, window = scheduler.advance(window, window.latents, fresh)
            blocks += [] if out is None else [out.block]
    assert blocks == [7, 8, 9], f"blocks 7 and after came out as {blocks}"


def remembers_only_in_the_window(make: Make) -> None:
    """One scheduler serves any number of streams: a second ride is the same as the first."""
    scheduler = make()
    first, again = ride(scheduler, 5), ride(scheduler, 5)
    assert first.rungs == again.rungs, "the second stream went down other rungs"
    for got, want in zip(again.latents, first.latents, strict=True):
        same(got, want, "latents of the second stream")


def keeps_no_memory_of_ended_streams(make: Make) -> None:
    """Streams leave no tensors behind."""
    scheduler = make()
    keeps_nothing(lambda: ride(scheduler, 4), "window scheduler")


CHECKS = (
    emits_every_block_once_in_order,
    takes_every_block_down_the_whole_ladder,
    has_a_ladder_that_rises_to_one,
    holds_no_more_blocks_than_it_declares,
    tells_before_what_it_renoises,
    delays_by_its_window,
    refuses_blocks_once_it_drains,
    begins_anew_from_an_empty_window,
    remembers_only_in_the_window,
    keeps_no_memory_of_ended_streams,
)
