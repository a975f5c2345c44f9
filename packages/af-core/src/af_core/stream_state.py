"""What one stream remembers, as an explicit value."""

from typing import Any, Generic, TypeVar

import attrs
from torch import Tensor

from af_core.errors import StaleStreamStateError
from af_core.stages.window_scheduler import Emitted, Window

AnchorsT = TypeVar("AnchorsT")


@attrs.define(eq=False)
class Version:
    """How often the memory behind a stream has been written; shared by all its states."""

    count: int = 0


@attrs.frozen
class Clock:
    """Where a stream stands."""

    next_block: int = 0
    """Number of the block that is admitted next."""
    num_heard: int = 0
    """Blocks whose speech has been heard; fewer than admitted if some enter unheard."""
    steps: int = 0
    """Steps taken; also the version of the memory this state belongs to."""
    num_forwards: int = 0
    """Passes of the network so far."""


@attrs.frozen(eq=False)
class StreamState(Generic[AnchorsT]):
    """All that a batch of streams remembers. Pass it in, keep the one that comes back.

    Keys and values are written in place, so a state can be stepped once; stepping it again
    raises StaleStreamStateError.
    """

    window: Window
    """Blocks on their way down the ladder."""
    anchors: AnchorsT
    """Which slots of memory hold which frames."""
    seeds: tuple[int, ...]
    """Seed of the noise of each stream."""
    conditions: Any
    """What the denoiser keeps constant for these streams."""
    memory: Any
    """The denoiser's slots of keys and values."""
    portrait: Tensor | None
    """The portrait's latent until the style anchor has been made from it."""
    version: Version = attrs.field(factory=Version)
    pending: Emitted | None = None
    """An emitted block whose clean keys and values the next pass will write."""
    clock: Clock = attrs.field(factory=Clock)

    @property
    def num_forwards(self) -> int:
        """Passes of the network so far."""
        return self.clock.num_forwards

    def require_current(self) -> None:
        """Raise StaleStreamStateError if a later state of this stream exists."""
        if self.version.count != self.clock.steps:
            raise StaleStreamStateError(
                f"This state is from step {self.clock.steps}, but its stream has been stepped "
                f"{self.version.count} times and its keys and values have been written over. "
                "Keep what step returns (block, state = streamer.step(state, audio)); to try "
                "something twice, open a second stream."
            )

    def claim(self) -> "StreamState[AnchorsT]":
        """Return this state one step on; every older one is stale from now on."""
        self.version.count += 1
        return attrs.evolve(self, clock=attrs.evolve(self.clock, steps=self.clock.steps + 1))

    def counting(self, num_forwards: int) -> "StreamState[AnchorsT]":
        """Return this state after so many more passes of the network."""
        total = self.clock.num_forwards + num_forwards
        return attrs.evolve(self, clock=attrs.evolve(self.clock, num_forwards=total))
