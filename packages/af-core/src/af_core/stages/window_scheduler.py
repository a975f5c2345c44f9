"""Window scheduler: which blocks are denoised together, and how noisy each one is."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import attrs
import torch

from af_core.tensors import AudioVectors, Latents, Sigmas, Windowed, WindowedAudio


@attrs.frozen(eq=False)
class Window:
    """Noisy blocks, the audio that drives them, and the rung each stands on.

    Slot 0 is the head: the oldest block, the cleanest, the next to be emitted.
    """

    latents: Windowed
    audio: WindowedAudio
    rungs: tuple[int, ...] = ()
    """Rung of each slot on the noise ladder; 0 is one step from clean."""
    blocks: tuple[int, ...] = ()
    """Number of each slot's block in the stream, from 0."""

    def __len__(self) -> int:
        return len(self.rungs)

    def with_tail(self, latents: Latents, audio: AudioVectors, rung: int, block: int) -> "Window":
        """Append one block."""
        return Window(
            torch.cat([self.latents, latents[:, None]], dim=1),
            torch.cat([self.audio, audio[:, None]], dim=1),
            (*self.rungs, rung),
            (*self.blocks, block),
        )

    def with_audio(self, audio: AudioVectors, first: int) -> "Window":
        """Let slots from ``first`` on be driven by ``audio [b, n f, places, dim]``."""
        new = audio.unflatten(1, (-1, self.latents.shape[2]))
        parts = [self.audio[:, :first], new, self.audio[:, first + new.shape[1] :]]
        return Window(self.latents, torch.cat(parts, dim=1), self.rungs, self.blocks)

    def up_to(self, block: int) -> "Window":
        """Drop the blocks from number ``block`` on."""
        count = sum(number < block for number in self.blocks)
        kept = slice(0, count)
        return Window(
            self.latents[:, kept], self.audio[:, kept], self.rungs[kept], self.blocks[kept]
        )

    def without_head(self) -> "Window":
        """Slide: what was slot 1 becomes the head."""
        return Window(self.latents[:, 1:], self.audio[:, 1:], self.rungs[1:], self.blocks[1:])


@runtime_checkable
class AdmitsUnheard(Protocol):
    """A window scheduler that lets blocks in before their speech is there, for a shorter delay."""

    @property
    def num_unheard(self) -> int:
        """Blocks at the tail of a full window whose speech has not been heard."""
        ...


@attrs.frozen(eq=False)
class Emitted:
    """A block that has come down the ladder, with the audio it was made from."""

    latents: Latents
    audio: AudioVectors
    block: int


@runtime_checkable
class WindowScheduler(Protocol):
    """Lets blocks in at the tail, brings them down the ladder, lets them out at the head."""

    @property
    def num_slots(self) -> int:
        """L: blocks a full window holds."""
        ...

    @property
    def num_passes(self) -> int:
        """N: denoising passes of one step."""
        ...

    @property
    def sigmas(self) -> Sigmas:
        """Noise levels of the ladder, from rung 0 to the top."""
        ...

    @property
    def timesteps(self) -> Sequence[float]:
        """What the network is told for each rung, from rung 0 to the top."""
        ...

    def admit(self, window: Window, noise: Latents, audio: AudioVectors, block: int) -> Window:
        """Put fresh noise and its audio at the tail; StreamEndedError while it drains.

        An empty window takes any block: streams begin there, and anew after an interruption.
        """
        ...

    def advance(
        self, window: Window, prediction: Windowed, fresh: Windowed
    ) -> tuple[Emitted | None, Window]:
        """Emit the head if it is done and re-noise every other block one rung lower.

        ``fresh`` holds new noise for every slot that stays, see ``lower_rungs``.
        """
        ...

    def lower_rungs(self, window: Window) -> tuple[tuple[int, int], ...]:
        """Return (block, rung) of every slot that stays after this pass, one rung lower."""
        ...
