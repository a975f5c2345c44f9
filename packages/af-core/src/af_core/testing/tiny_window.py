"""Tiny bookkeeping: a window of two blocks, and an anchor cache that keeps one latent frame."""

from typing import Any

import attrs
from torch import Tensor

from af_core.stages.denoiser import Plan, Segment
from af_core.stages.window_scheduler import Emitted, Window


class TinyWindowScheduler:
    """A block enters on rung 1 and leaves one step later from rung 0."""

    num_slots = 2
    num_passes = 1

    def __init__(self, schedule: Any) -> None:
        self.schedule = schedule
        self.sigmas: Tensor = schedule.ladder(2)
        self.timesteps: tuple[float, ...] = tuple(schedule.timesteps(self.sigmas).tolist())

    def admit(self, window: Window, noise: Tensor, audio: Tensor, block: int) -> Window:
        """Put a block behind the one that is about to leave, or into an empty window."""
        return window.with_tail(noise, audio, 1, block)

    def lower_rungs(self, window: Window) -> tuple[tuple[int, int], ...]:
        """Return the newer block, which will stand on rung 0."""
        pairs = zip(window.blocks, window.rungs, strict=True)
        return tuple((block, 0) for block, rung in pairs if rung == 1)

    def advance(
        self, window: Window, prediction: Tensor, fresh: Tensor
    ) -> tuple[Emitted | None, Window]:
        """Hand out the block on rung 0; take the other one there."""
        levels = self.sigmas[list(window.rungs)].view(1, -1, *[1] * (prediction.dim() - 2))
        clean = self.schedule.to_clean(prediction, window.latents, levels)
        emitted = None
        if window.rungs[0] == 0:
            emitted = Emitted(clean[:, 0], window.audio[:, 0], window.blocks[0])
            window, clean = window.without_head(), clean[:, 1:]
        if len(window):
            clean = self.schedule.add_noise(clean, fresh, self.sigmas[0])
        return emitted, attrs.evolve(window, latents=clean, rungs=(0,) * len(window))


class TinyAnchorCache:
    """The newest emitted latent frame stands at -1; there is no style anchor."""

    num_slots = 1
    zero_anchor_audio = True
    remembers = True

    def open(self) -> bool:
        """Return whether a frame is remembered: not yet."""
        return False

    def prefill(self) -> Plan | None:
        """Return no pass: the portrait is not kept."""
        return None

    def window(self, anchors: bool, first_frame: int, num_frames: int) -> Plan:
        """Return a pass over the window that sees the remembered frame."""
        whole = Segment(0, num_frames, sees_from=0)
        return Plan(tuple(range(num_frames)), (whole,), stored=((0, -1),) if anchors else ())

    def absorb(self, anchors: bool, first_frame: int, num_frames: int) -> tuple[Plan, bool]:
        """Return a clean pass that keeps the last frame of the block."""
        saves = ((num_frames - 1, 0),)
        return attrs.evolve(
            self.window(anchors, first_frame, num_frames), saves=saves, num_silent=num_frames
        ), True

    def absorb_and_window(
        self, anchors: bool, first_frame: int, num_pending: int, num_frames: int
    ) -> tuple[Plan, bool]:
        """Return both passes as one; the window sees the last clean frame and not the old one."""
        stored = ((0, -num_pending - 1),) if anchors else ()
        clean = Segment(0, num_pending, sees_from=0)
        window = Segment(
            num_pending,
            num_pending + num_frames,
            sees_from=num_pending - 1,
            recalls_from=len(stored),
        )
        return Plan(
            tuple(range(-num_pending, num_frames)),
            (clean, window),
            stored=stored,
            saves=((num_pending - 1, 0),),
            num_silent=num_pending,
        ), True
