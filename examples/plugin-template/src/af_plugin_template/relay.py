"""A window scheduler: blocks pass through the rungs like runners in a relay, one rung a step."""

from typing import Any

import attrs
from af_core.errors import StreamEndedError
from af_core.stages.window_scheduler import Emitted, Window
from torch import Tensor


class RelayScheduler:
    """A block enters on the top rung, goes down one rung per step, and leaves below rung 0."""

    num_passes = 1

    def __init__(self, schedule: Any, num_slots: int = 4) -> None:
        self.schedule = schedule
        self.num_slots = num_slots
        self.sigmas: Tensor = schedule.ladder(num_slots)
        self.timesteps: tuple[float, ...] = tuple(schedule.timesteps(self.sigmas).tolist())

    def admit(self, window: Window, noise: Tensor, audio: Tensor, block: int) -> Window:
        """Put a block of fresh noise on the top rung; the one before it has gone down one."""
        top = self.num_slots - 1
        if len(window) and window.rungs[-1] != top - 1:
            raise StreamEndedError("This stream is draining and takes no more speech.")
        return window.with_tail(noise, audio, top, block)

    def lower_rungs(self, window: Window) -> tuple[tuple[int, int], ...]:
        """Return (block, rung) of every block that stays after this pass."""
        pairs = zip(window.blocks, window.rungs, strict=True)
        return tuple((block, rung - 1) for block, rung in pairs if rung > 0)

    def advance(
        self, window: Window, prediction: Tensor, fresh: Tensor
    ) -> tuple[Emitted | None, Window]:
        """Hand out the head if it stands on rung 0; re-noise all others one rung lower."""
        clean = self.schedule.to_clean(prediction, window.latents, self._levels(window))
        emitted = None
        if window.rungs[0] == 0:
            emitted = Emitted(clean[:, 0], window.audio[:, 0], window.blocks[0])
            window, clean = window.without_head(), clean[:, 1:]
        window = attrs.evolve(window, rungs=tuple(rung - 1 for rung in window.rungs))
        if len(window):
            clean = self.schedule.add_noise(clean, fresh, self._levels(window))
        return emitted, attrs.evolve(window, latents=clean)

    def _levels(self, window: Window) -> Tensor:
        """Return the noise level of each slot, shaped to broadcast against its latents."""
        levels = self.sigmas[list(window.rungs)].to(window.latents.device)
        return levels.view(1, -1, *[1] * (window.latents.dim() - 2))
