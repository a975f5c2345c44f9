"""Tiny parts of the streaming algorithm: a noise schedule, and a network that is a formula."""

from collections.abc import Sequence

import attrs
import torch
from torch import Tensor

from af_core.geometry import TEMPORAL_STRIDE
from af_core.stages.denoiser import Plan, Segment
from af_core.testing.tiny_plugin import FEATURES


@attrs.frozen
class TinyNoiseSchedule:
    """Evenly spaced levels on the straight line from clean to noise; predictions are clean."""

    def ladder(self, num_rungs: int) -> Tensor:
        """Return 1/n, 2/n, ..., 1."""
        return torch.arange(1, num_rungs + 1, dtype=torch.float32) / num_rungs

    def timesteps(self, sigmas: Tensor) -> Tensor:
        """Return a thousand times the level."""
        return 1000 * sigmas

    def add_noise(self, clean: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
        """Mix clean latents with noise."""
        return (1 - sigma) * clean + sigma * noise

    def to_clean(self, prediction: Tensor, noisy: Tensor, sigma: Tensor) -> Tensor:
        """Return the prediction, which is clean already."""
        return prediction


@attrs.frozen
class TinyMemory:
    """Remembered latents, one slot each: [slot, b, c, h, w]."""

    slots: Tensor

    def read(self, slot: int, plan: Plan) -> Tensor:
        """Return what a slot holds, [b, c, h, w]."""
        return self.slots[slot]

    def write(self, slot: int, latent: Tensor, plan: Plan) -> None:
        """Put a latent [b, c, h, w] into a slot."""
        self.slots[slot] = latent


@attrs.frozen
class TinySharedMemory:
    """The memories of single streams in a step that they share (`af_core.stages.sharing`)."""

    memories: tuple[TinyMemory, ...]
    before: tuple[Tensor, ...]
    """What they held when the step began."""

    def read(self, slot: int, plan: Plan) -> Tensor:
        """Return what every stream holds in the slot that the plan calls ``slot``."""
        each = zip(self.memories, plan.slots, strict=True)
        return torch.cat([memory.slots[where[slot]] for memory, where in each])

    def write(self, slot: int, latent: Tensor, plan: Plan) -> None:
        """Put a latent of each stream into that slot."""
        each = zip(self.memories, plan.slots, latent.split(1), strict=True)
        for memory, where, one in each:
            memory.slots[where[slot]] = one

    def restore(self) -> None:
        """Undo all that was written."""
        for memory, held in zip(self.memories, self.before, strict=True):
            memory.slots.copy_(held)


@attrs.frozen
class TinyDenoiser:
    """Mixes noisy latents with all it may see: portrait, memory, window, audio, level, position.

    Every argument moves the result, so a slip in any of them shows.
    """

    def open(self, portrait: Tensor, text: Tensor | None = None) -> Tensor:
        """Return the portraits [b, c, h, w]."""
        return portrait[:, 0]

    def allocate(self, conditions: Tensor, num_slots: int) -> TinyMemory:
        """Return empty slots."""
        return TinyMemory(conditions.new_zeros(num_slots, *conditions.shape))

    def join(self, conditions: Sequence[Tensor]) -> Tensor:
        """Return the portraits of all streams."""
        return torch.cat(list(conditions))

    def share(self, memories: Sequence[TinyMemory]) -> TinySharedMemory:
        """Return a memory over those of single streams."""
        held = tuple(memory.slots.clone() for memory in memories)
        return TinySharedMemory(tuple(memories), held)

    def embed_audio(self, rows: Tensor) -> Tensor:
        """Average the four rows of each latent frame: [b, 4 f, d] -> [b, f, 1, d]."""
        return rows.unflatten(1, (-1, TEMPORAL_STRIDE)).mean(2)[:, :, None]

    def silence(self, num_streams: int) -> Tensor:
        """Return vectors of zeros [b, 1, 1, d]."""
        return torch.zeros(num_streams, 1, 1, FEATURES)

    def modulation(self, timesteps: Tensor) -> Tensor:
        """Return the levels, [f] or [b, f]."""
        return timesteps / 1000

    def recall_modulation(self, conditions: Tensor, timesteps: Sequence[float]) -> Tensor:
        """Return the same from plain numbers."""
        return self.modulation(torch.tensor(timesteps))

    def __call__(
        self,
        latents: Tensor,
        modulation: Tensor,
        audio: Tensor,
        conditions: Tensor,
        plan: Plan,
        memory: TinyMemory | TinySharedMemory | None = None,
    ) -> Tensor | None:
        """Return a clean estimate [b, f, c, h, w] of every frame that is not silent."""
        seen = torch.cat(
            [self._context(latents, conditions, plan, s, memory) for s in plan.segments], dim=1
        )
        level = modulation.expand(latents.shape[:2])[..., None, None, None]
        drive = 4 * audio.mean((2, 3))[..., None, None, None]
        made = torch.tanh(latents * (1 - level) + 0.5 * seen + drive + conditions[:, None])
        if memory is not None:
            for frame, slot in plan.saves:
                memory.write(slot, latents[:, frame], plan)
        return made[:, plan.num_silent :] if plan.num_silent < latents.shape[1] else None

    def _context(
        self,
        latents: Tensor,
        conditions: Tensor,
        plan: Plan,
        segment: Segment,
        memory: TinyMemory | TinySharedMemory | None,
    ) -> Tensor:
        """Return, for each frame of a segment, the mean of what it sees, weighted by distance."""
        keys = [(plan.positions[i], latents[:, i]) for i in range(segment.sees_from, segment.stop)]
        if memory is not None:
            stored = plan.stored[segment.recalls_from :]
            keys += [(position, memory.read(slot, plan)) for slot, position in stored]
        if segment.anchor_at is not None:
            slot = plan.anchor_slot
            anchor = conditions if memory is None or slot is None else memory.read(slot, plan)
            keys.append((segment.anchor_at, anchor))
        rows = [
            torch.stack([key / (1 + abs(plan.positions[i] - at)) for at, key in keys]).mean(0)
            for i in range(segment.start, segment.stop)
        ]
        return torch.stack(rows, dim=1)
