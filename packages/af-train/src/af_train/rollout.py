"""The roll-out of distillation: clips made by the streaming engine, with gradients by window.

The student streams as it serves users, through ``Streamer.stream`` and without gradients. Windows
whose number is ``offset`` modulo L tile the clip exactly once; the clip that is scored is the
mosaic of their clean estimates. The gradient of any function of the mosaic is then the sum of what
each of these windows contributes, run again one by one, so memory never holds more than one.
"""

from collections.abc import Iterator
from typing import Any

import attrs
import torch
from af_core.errors import ConfigError
from af_core.stages.noise_schedule import NoiseSchedule
from af_core.streaming import Streamer
from af_core.windows.causal import CausalScheduler
from af_core.windows.config import CausalConfig
from torch import Tensor

from af_train.networks import Conditions
from af_train.recorder import Pass, Recorder


@attrs.frozen(eq=False)
class Rollout:
    """What a student made of some conditions, and the windows that carry its gradient."""

    emitted: Tensor
    """What a viewer sees, ``[b, f, c, h, w]``."""
    clip: Tensor
    """The mosaic ``[b, f, c, h, w]``: each frame as a window with gradients estimated it."""
    windows: tuple["Window", ...]
    engine: Streamer[Any]
    """What made them; its denoiser is the student, ``Trainable``."""
    seeds: tuple[int, ...]
    """One seed of the engine's noise for each clip."""

    @property
    def network(self) -> Any:
        """The student."""
        return self.engine.denoiser

    def first_noise(self) -> Tensor:
        """Return the noise that each frame began as, ``[b, f, c, h, w]``, drawn again."""
        size, top = self.engine.block_latents, len(self.engine.scheduler.timesteps) - 1
        shape = (size, *self.clip.shape[2:])
        blocks = range(self.clip.shape[1] // size)
        parts = [self.engine.noise.draw(self.seeds, block, top, shape) for block in blocks]
        return torch.cat(parts, dim=1).to(self.clip)

    def backward(self, field: Tensor, first: int = 0) -> None:
        """Accumulate d<clip, field>/d weights, window by window; ``field`` is shaped as the clip.

        Windows that end before frame ``first``, where the field is 0, are not run. If the field is
        dL/dclip, this is the gradient of L (vector-Jacobian products add up).
        """
        for window, clean in self.again(first):
            (clean * field[:, window.frames]).sum().backward()

    def again(self, first: int = 0) -> Iterator[tuple["Window", Tensor]]:
        """Yield each window past ``first`` and its clean estimate, computed anew with gradients."""
        for window in (w for w in self.windows if w.frames.stop > first):
            with torch.enable_grad():
                yield window, window.clean(window.kept.again(self.network))


@attrs.frozen(eq=False)
class Window:
    """One pass that carries gradients, and the frames of the clip that it estimates."""

    kept: Pass
    frames: slice
    schedule: NoiseSchedule
    sigma: Tensor
    """Level of each frame, ready to broadcast."""

    def clean(self, output: Tensor) -> Tensor:
        """Return the clean estimates of the frames that belong to the clip."""
        size, inputs = self.frames.stop - self.frames.start, self.kept.latents
        noisy = inputs[:, inputs.shape[1] - output.shape[1] :]
        return self.schedule.to_clean(output, noisy, self.sigma)[:, :size]


@torch.no_grad()
def roll_out(
    streamer: Streamer[Any],
    schedule: NoiseSchedule,
    given: Conditions,
    *,
    seeds: tuple[int, ...],
    offset: int,
) -> Rollout:
    """Stream whole clips and keep the windows that will carry gradients.

    ``schedule`` is that of the streamer's window scheduler. ``offset`` in 0 .. L - 1 must be the
    same on all ranks: the number of windows may depend on it. With N > 1 passes a step, the last
    of them carries the gradient. ``streamer.fused`` off keeps clean passes free of gradients.
    """
    num_slots, num_passes = streamer.scheduler.num_slots, streamer.scheduler.num_passes
    if not 0 <= offset < num_slots:
        raise ConfigError(f"offset={offset}: windows of {num_slots} blocks have 0 to L - 1.")
    step_rows = 4 * streamer.block_latents
    if given.rows.shape[1] % step_rows or not given.rows.shape[1]:
        raise ConfigError(
            f"{given.rows.shape[1]} rows of audio are no whole blocks of {step_rows} rows."
        )

    def wanted(number: int) -> bool:
        step, within = divmod(number, num_passes)
        return within == num_passes - 1 and step % num_slots == offset

    recorder = Recorder(streamer.denoiser, wanted)
    engine: Streamer[Any] = attrs.evolve(streamer, denoiser=recorder)
    state = engine.open(given.portrait, text=given.text, seeds=seeds)
    tape = state.memory
    emitted = torch.cat([*engine.stream(state, given.rows.split(step_rows, dim=1))], dim=1)
    windows = tuple(_window(p, streamer, schedule, emitted.shape[1]) for p in tape.passes)
    parts = [window.clean(window.kept.output) for window in windows]
    return Rollout(emitted, torch.cat(parts, dim=1), windows, streamer, seeds)


def _window(
    kept: Pass, streamer: Streamer[Any], schedule: NoiseSchedule, num_frames: int
) -> Window:
    """Say which frames a pass estimates: window w ends with block w and holds L at most."""
    scheduler, size = streamer.scheduler, streamer.block_latents
    start = max(0, kept.number // scheduler.num_passes - scheduler.num_slots + 1) * size
    stop = min(num_frames, start + kept.output.shape[1])
    levels = dict(zip(scheduler.timesteps, scheduler.sigmas.tolist(), strict=True))
    told = kept.timesteps[-kept.output.shape[1] :]
    sigma = torch.tensor([levels[time] for time in told], device=kept.latents.device)
    return Window(kept, slice(start, stop), schedule, sigma.view(1, -1, 1, 1, 1))


@attrs.frozen(eq=False)
class _Noisiest:
    """The noisiest rungs of a ladder: that of a block that leaves before its last step."""

    schedule: NoiseSchedule
    num_rungs: int
    """Rungs of the whole ladder."""

    def ladder(self, num_rungs: int) -> Tensor:
        """Return the noisiest ``num_rungs`` of the ladder."""
        return self.schedule.ladder(self.num_rungs)[-num_rungs:]

    def timesteps(self, sigmas: Tensor) -> Tensor:
        """See ``NoiseSchedule.timesteps``."""
        return self.schedule.timesteps(sigmas)

    def add_noise(self, clean: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
        """See ``NoiseSchedule.add_noise``."""
        return self.schedule.add_noise(clean, noise, sigma)

    def to_clean(self, prediction: Tensor, noisy: Tensor, sigma: Tensor) -> Tensor:
        """See ``NoiseSchedule.to_clean``."""
        return self.schedule.to_clean(prediction, noisy, sigma)


def self_forcing(streamer: Streamer[Any], schedule: NoiseSchedule, exit_step: int) -> Streamer[Any]:
    """Return the causal engine of Self-Forcing: block by block, left after step ``exit_step``.

    Steps after the exit are not run, and a block's history has the quality of the exit. Roll it
    out with ``offset=0``: the last pass of each block carries the gradient.
    """
    num_rungs = len(streamer.scheduler.timesteps)
    if not 0 <= exit_step < num_rungs:
        raise ConfigError(f"exit_step={exit_step}: a ladder of {num_rungs} rungs has 0 to T - 1.")
    scheduler = CausalScheduler(
        _Noisiest(schedule, num_rungs), CausalConfig(num_passes=exit_step + 1)
    )
    return attrs.evolve(streamer, scheduler=scheduler, unheard=0)
