"""The local-future window of AvatarForcing (section 3.1): L blocks, N rungs apart."""

import attrs
from torch import Tensor

from af_core.errors import ConfigError, StreamEndedError
from af_core.stages.noise_schedule import NoiseSchedule
from af_core.stages.window_scheduler import Emitted, Window
from af_core.windows.config import LocalFutureConfig as LocalFutureConfig
from af_core.windows.config import require_lookahead


@attrs.frozen(eq=False)
class LocalFutureScheduler:
    """A block enters on the top rung, goes down one per pass, and leaves below rung 0.

    Rungs are carried with the blocks, never inferred from how full the window is, so clips that
    are shorter than the window come down the same ladder.
    """

    schedule: NoiseSchedule
    config: LocalFutureConfig = attrs.field(factory=LocalFutureConfig)
    sigmas: Tensor = attrs.field(init=False)
    """Float32 noise levels from rung 0 to the top."""
    timesteps: tuple[float, ...] = attrs.field(init=False)
    """What the network is told for each rung."""

    def __attrs_post_init__(self) -> None:
        c = self.config
        if c.num_slots < 1 or c.num_passes < 1:
            raise ConfigError(
                f"num_slots={c.num_slots}, num_passes={c.num_passes}: both are at least 1."
            )
        require_lookahead(c)
        sigmas = self.schedule.ladder(c.num_slots * c.num_passes)
        object.__setattr__(self, "sigmas", sigmas)
        object.__setattr__(self, "timesteps", tuple(self.schedule.timesteps(sigmas).tolist()))

    @property
    def num_slots(self) -> int:
        """L: blocks a full window holds."""
        return self.config.num_slots

    @property
    def num_passes(self) -> int:
        """N: denoising passes of one step."""
        return self.config.num_passes

    @property
    def num_unheard(self) -> int:
        """Blocks at the tail of a full window whose speech has not been heard."""
        ahead = self.config.audio_lookahead_blocks
        return 0 if ahead is None else self.num_slots - 1 - ahead

    @property
    def top_rung(self) -> int:
        """Rung on which blocks are admitted."""
        return len(self.timesteps) - 1

    def admit(self, window: Window, noise: Tensor, audio: Tensor, block: int) -> Window:
        """Put fresh noise at the tail, on the top rung."""
        if len(window) and window.rungs[-1] != self.top_rung - self.num_passes:
            raise StreamEndedError(
                "This stream was stepped without audio and is draining: its newest block stands "
                f"on rung {window.rungs[-1]}, and a new one may follow only rung "
                f"{self.top_rung - self.num_passes}. Feed silence to keep a stream alive, or open "
                "a new one."
            )
        return window.with_tail(noise, audio, self.top_rung, block)

    def lower_rungs(self, window: Window) -> tuple[tuple[int, int], ...]:
        """Return (block, rung) of every slot that stays after this pass."""
        pairs = zip(window.blocks, window.rungs, strict=True)
        return tuple((block, rung - 1) for block, rung in pairs if rung > 0)

    def advance(
        self, window: Window, prediction: Tensor, fresh: Tensor
    ) -> tuple[Emitted | None, Window]:
        """Emit the head from rung 0; re-noise every other block one rung lower."""
        sigma = self._per_slot(window)
        clean = self.schedule.to_clean(prediction, window.latents, sigma)
        emitted = None
        if window.rungs[0] == 0:
            emitted = Emitted(clean[:, 0], window.audio[:, 0], window.blocks[0])
            window, clean = window.without_head(), clean[:, 1:]
        window = attrs.evolve(window, rungs=tuple(rung - 1 for rung in window.rungs))
        if len(window):
            clean = self.schedule.add_noise(clean, fresh, self._per_slot(window))
        return emitted, attrs.evolve(window, latents=clean)

    def _per_slot(self, window: Window) -> Tensor:
        """Return the noise level of each slot, ready to broadcast against its latents."""
        levels = self.sigmas[list(window.rungs)].to(window.latents.device)
        return levels.view(1, -1, *[1] * (window.latents.dim() - 2))
