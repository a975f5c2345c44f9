"""Denoiser: one pass of the network over latent frames, and what tells it who sees whom."""

from collections.abc import Sequence
from typing import Any, Protocol, TypeVar, runtime_checkable

import attrs
from torch import Tensor

from af_core.tensors import AudioRows, AudioVectors, Latents, TextRows

ConditionsT = TypeVar("ConditionsT")
MemoryT = TypeVar("MemoryT")


@attrs.frozen
class Segment:
    """A run of query frames that see the same keys.

    The keys are the style anchor (unless ``anchor_at`` is None), the stored frames from
    ``recalls_from`` on, and the frames of this pass from ``sees_from`` to the segment's own end.
    """

    start: int
    """First query frame, counted within the pass."""
    stop: int
    """One past the last query frame."""
    sees_from: int
    """First frame of this pass whose key is seen."""
    recalls_from: int = 0
    """First entry of ``Plan.stored`` whose key is seen."""
    anchor_at: int | None = None
    """Temporal position at which the style anchor's key appears to these queries."""


@attrs.frozen
class Plan:
    """Who sees whom in one pass, at which temporal positions, and what is kept afterwards.

    Positions are relative to the first window frame, which stands at 0; any integer will do.
    """

    positions: tuple[int, ...]
    """Temporal position of each frame of the pass."""
    segments: tuple[Segment, ...]
    """They cover the frames of the pass in order."""
    stored: tuple[tuple[int, int], ...] = ()
    """(slot, position) of each remembered frame, oldest first."""
    saves: tuple[tuple[int, int], ...] = ()
    """(frame, slot): frames of this pass whose keys and values go into a slot."""
    num_silent: int = 0
    """Leading frames wanted only for their keys and values; nothing is predicted for them."""
    portrait: int | None = None
    """Frame of this pass that is the portrait itself (mask channel 0)."""
    anchor_slot: int | None = None
    """Slot of the style anchor; None takes the portrait of this pass."""
    slots: tuple[tuple[int, ...], ...] = ()
    """Where streams share a pass: for each of them, the slot of its own memory that is meant by
    0, 1, 2, ... here. Empty if all are in one memory, under the numbers given here."""


@runtime_checkable
class Denoiser(Protocol[ConditionsT, MemoryT]):
    """Predicts the clean latents, or the velocity, of noisy ones. Weights and nothing else.

    What is constant for one stream is in ``conditions``, what grows out of it in ``memory``;
    the caller owns both. ``memory`` is written in place where ``plan.saves`` says.
    """

    def open(self, portrait: Latents, text: TextRows | None = None) -> ConditionsT:
        """Return what stays constant for streams of these portraits ``[b, 1, c, h, w]``."""
        ...

    def allocate(self, conditions: ConditionsT, num_slots: int) -> MemoryT:
        """Return empty slots, each for the keys and values of one latent frame."""
        ...

    def embed_audio(self, rows: AudioRows) -> AudioVectors:
        """Turn feature rows ``[b, 4 f, d]`` into what they add to the tokens."""
        ...

    def silence(self, num_streams: int) -> AudioVectors:
        """Return the audio vectors of one latent frame without audio (rows of zeros)."""
        ...

    def modulation(self, timesteps: Tensor) -> Any:
        """Return what frames at these timesteps (``[f]`` or ``[b, f]``) are modulated with."""
        ...

    def recall_modulation(self, conditions: ConditionsT, timesteps: Sequence[float]) -> Any:
        """Return the same from timesteps known by value, computed once per stream."""
        ...

    def __call__(
        self,
        latents: Latents,
        modulation: Any,
        audio: AudioVectors,
        conditions: ConditionsT,
        plan: Plan,
        memory: MemoryT | None = None,
    ) -> Latents | None:
        """Return the prediction for every frame that is not silent; None when all are."""
        ...
