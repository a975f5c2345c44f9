"""A denoiser that passes everything on and keeps chosen passes, so that they can be run again.

The engine streams without gradients, as it serves users. A pass that is kept holds all it was
given, memory included, by value: run again with gradients on, it yields the derivative of exactly
what was streamed, and nothing that happens in between can write over it.
"""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import attrs
import torch
from af_core.geometry import TEMPORAL_STRIDE
from af_core.stages.denoiser import Plan
from torch import Tensor

from af_train.networks import Trainable


@attrs.frozen(eq=False)
class Pass:
    """One pass of the network over a window: what went in, and what came out."""

    number: int
    """Counted over the passes of a stream that predict anything."""
    latents: Tensor
    """``[b, f, c, h, w]``."""
    timesteps: tuple[float, ...]
    """One for each frame."""
    rows: Tensor
    """Audio features ``[b, 4 f, d]``."""
    portrait: Tensor
    text: Tensor | None
    plan: Plan
    """Without what the pass saved: running it again writes nothing."""
    memory: Any
    """Keys and values as they were, a copy without gradients."""
    output: Tensor
    """``[b, f - silent, c, h, w]``."""

    def again(self, network: Trainable) -> Tensor:
        """Run the pass again; differentiable in every weight that took part in this pass."""
        return network.denoise(
            self.latents,
            torch.tensor([self.timesteps], device=self.latents.device),
            self.rows,
            self.portrait,
            self.plan,
            self.text,
            self.memory,
        )


@attrs.frozen(eq=False)
class _Told:
    """Conditions of the network, and what they were made from."""

    conditions: Any
    portrait: Tensor
    text: Tensor | None


@attrs.define(eq=False)
class Tape:
    """Memory of a recorded stream: the network's own, and the passes that were kept."""

    memory: Any
    num_passes: int = 0
    """Passes so far that predicted anything."""
    passes: list[Pass] = attrs.field(factory=list)


@attrs.frozen(eq=False)
class Recorder:
    """Stands for ``network`` in a ``Streamer``; the numbers are the network's own, to the bit."""

    network: Any
    wanted: Callable[[int], bool]
    """Which passes to keep, by their number among those that predict."""

    def open(self, portrait: Tensor, text: Tensor | None = None) -> _Told:
        """See ``Denoiser.open``."""
        return _Told(self.network.open(portrait, text), portrait, text)

    def allocate(self, conditions: _Told, num_slots: int) -> Tape:
        """See ``Denoiser.allocate``."""
        return Tape(self.network.allocate(conditions.conditions, num_slots))

    def embed_audio(self, rows: Tensor) -> Tensor:
        """Return the network's vectors and, in further places, the rows they were made from."""
        vectors = self.network.embed_audio(rows)
        packed = rows.to(vectors).unflatten(1, (-1, TEMPORAL_STRIDE)).flatten(2)
        width = vectors.shape[-1]
        padded = torch.nn.functional.pad(packed, (0, -packed.shape[-1] % width))
        return torch.cat([vectors, padded.unflatten(-1, (-1, width))], dim=2)

    def silence(self, num_streams: int) -> Tensor:
        """See ``Denoiser.silence``; its rows are zeros."""
        vectors = self.network.silence(num_streams)
        places = -(-TEMPORAL_STRIDE * self.network.audio_dim // vectors.shape[-1])
        rows = vectors.new_zeros(*vectors.shape[:2], places, vectors.shape[-1])
        return torch.cat([vectors, rows], dim=2)

    def modulation(self, timesteps: Tensor) -> Any:
        """See ``Denoiser.modulation``."""
        return self.network.modulation(timesteps), tuple(timesteps.flatten().tolist())

    def recall_modulation(self, conditions: _Told, timesteps: Sequence[float]) -> Any:
        """See ``Denoiser.recall_modulation``."""
        return self.network.recall_modulation(conditions.conditions, timesteps), tuple(timesteps)

    def __call__(
        self,
        latents: Tensor,
        modulation: tuple[Any, tuple[float, ...]],
        audio: Tensor,
        conditions: _Told,
        plan: Plan,
        memory: Tape,
    ) -> Tensor | None:
        """Run the network, and keep the pass if it is wanted."""
        vectors, rows = self._apart(audio)
        predicts = plan.num_silent < len(plan.positions)
        wanted = predicts and self.wanted(memory.num_passes)
        before = copy.deepcopy(memory.memory) if wanted else None
        known, timesteps = modulation
        out = self.network(latents, known, vectors, conditions.conditions, plan, memory.memory)
        if wanted and out is not None:
            told, quiet = (conditions.portrait, conditions.text), attrs.evolve(plan, saves=())
            inputs = (memory.num_passes, latents, timesteps, rows, *told, quiet, before)
            memory.passes.append(Pass(*inputs, output=out))
        memory.num_passes += predicts
        return out

    def _apart(self, audio: Tensor) -> tuple[Tensor, Tensor]:
        """Split what ``embed_audio`` joined: vectors ``[b, f, i, m]``, rows ``[b, 4 f, d]``."""
        width = TEMPORAL_STRIDE * self.network.audio_dim
        places = audio.shape[2] - -(-width // audio.shape[3])
        rows = audio[:, :, places:].flatten(2)[..., :width]
        return audio[:, :, :places], rows.unflatten(-1, (TEMPORAL_STRIDE, -1)).flatten(1, 2)
