"""The strictly causal window of Self-Forcing and its kin: one block, N steps, no future."""

import attrs
from torch import Tensor

from af_core.errors import ConfigError
from af_core.stages.noise_schedule import NoiseSchedule
from af_core.stages.window_scheduler import Emitted, Window
from af_core.windows.config import CausalConfig as CausalConfig


@attrs.frozen(eq=False)
class CausalScheduler:
    """A block comes down the whole ladder in the step that admits it."""

    schedule: NoiseSchedule
    config: CausalConfig = attrs.field(factory=CausalConfig)
    sigmas: Tensor = attrs.field(init=False)
    """Float32 noise levels from rung 0 to the top."""
    timesteps: tuple[float, ...] = attrs.field(init=False)
    """What the network is told for each rung."""

    def __attrs_post_init__(self) -> None:
        if self.config.num_passes < 1:
            raise ConfigError(f"num_passes={self.config.num_passes} must be at least 1.")
        sigmas = self.schedule.ladder(self.config.num_passes)
        object.__setattr__(self, "sigmas", sigmas)
        object.__setattr__(self, "timesteps", tuple(self.schedule.timesteps(sigmas).tolist()))

    @property
    def num_slots(self) -> int:
        """L: one block."""
        return 1

    @property
    def num_passes(self) -> int:
        """N: denoising passes of one step."""
        return self.config.num_passes

    def admit(self, window: Window, noise: Tensor, audio: Tensor, block: int) -> Window:
        """Begin a block on the top rung; the one before has left."""
        return window.with_tail(noise, audio, len(self.timesteps) - 1, block)

    def lower_rungs(self, window: Window) -> tuple[tuple[int, int], ...]:
        """Return the block and its next rung, nothing when it is about to leave."""
        block, rung = window.blocks[0], window.rungs[0]
        return ((block, rung - 1),) if rung else ()

    def advance(
        self, window: Window, prediction: Tensor, fresh: Tensor
    ) -> tuple[Emitted | None, Window]:
        """Take the block one rung down, or emit it from rung 0."""
        rung = window.rungs[0]
        clean = self.schedule.to_clean(prediction, window.latents, self.sigmas[rung])
        if rung == 0:
            block = Emitted(clean[:, 0], window.audio[:, 0], window.blocks[0])
            return block, window.without_head()
        noisy = self.schedule.add_noise(clean, fresh, self.sigmas[rung - 1])
        return None, attrs.evolve(window, latents=noisy, rungs=(rung - 1,))
