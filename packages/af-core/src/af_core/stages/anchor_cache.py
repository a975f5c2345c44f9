"""Anchor cache: which frames the denoiser attends to besides its own window."""

from typing import Protocol, TypeVar, runtime_checkable

from af_core.stages.denoiser import Plan

AnchorsT = TypeVar("AnchorsT")


@runtime_checkable
class RoughensContext(Protocol):
    """An anchor cache that remembers emitted blocks with a little noise in them."""

    @property
    def context_noise(self) -> float:
        """Noise level, 0 to 1, of emitted blocks when their keys and values are made."""
        ...


@runtime_checkable
class AnchorCache(Protocol[AnchorsT]):
    """Policy of the dual anchor: a style anchor that stays, temporal anchors that roll.

    It knows slots and positions and touches no tensor: keys and values lie in the denoiser's
    memory, and the plans made here say which slot is read, at which position, and written.
    """

    @property
    def num_slots(self) -> int:
        """Slots of memory one stream needs."""
        ...

    @property
    def zero_anchor_audio(self) -> bool:
        """Whether the style anchor is made with zero audio rows, as in the paper."""
        ...

    @property
    def remembers(self) -> bool:
        """Whether a clean pass over emitted blocks writes them into memory; if not, none is run."""
        ...

    def open(self) -> AnchorsT:
        """Return the bookkeeping of a stream that has emitted nothing."""
        ...

    def prefill(self) -> Plan | None:
        """Return the pass that stores the portrait as style anchor; None without one."""
        ...

    def window(self, anchors: AnchorsT, first_frame: int, num_frames: int) -> Plan:
        """Return the plan of a window pass; ``first_frame`` is the head's absolute latent index."""
        ...

    def absorb(self, anchors: AnchorsT, first_frame: int, num_frames: int) -> tuple[Plan, AnchorsT]:
        """Return the plan of a clean pass over an emitted block, and the anchors after it."""
        ...

    def absorb_and_window(
        self, anchors: AnchorsT, first_frame: int, num_pending: int, num_frames: int
    ) -> tuple[Plan, AnchorsT]:
        """Return both as one longer pass: the clean block first, then the window."""
        ...


@runtime_checkable
class KeepsNoisy(Protocol[AnchorsT]):
    """An anchor cache that may remember blocks as the pass saw them that emitted them."""

    @property
    def keeps_noisy(self) -> bool:
        """Whether it does."""
        ...

    def emit(
        self, anchors: AnchorsT, first_frame: int, num_emitted: int, num_frames: int
    ) -> tuple[Plan, AnchorsT]:
        """Return the plan of the window pass that emits the head, and the anchors after it."""
        ...
