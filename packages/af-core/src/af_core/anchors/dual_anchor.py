"""The dual anchor: a portrait that stays and the newest clean frames (paper section 3.2).

Positions are those of the paper, counted from the first window frame: the window stands at
0, 1, ..., the h temporal anchors at -h .. -1, and the style anchor at u + d, where u is the first
frame of the context (-h) and d is -1.
"""

import attrs

from af_core.anchors.config import DualAnchorConfig as DualAnchorConfig
from af_core.errors import ConfigError
from af_core.stages.denoiser import Plan, Segment


@attrs.frozen
class Anchors:
    """What is remembered of a stream, by slot; the tensors lie in the denoiser's memory."""

    slots: tuple[int, ...] = ()
    """Slots of the temporal anchors, oldest first."""


@attrs.frozen
class DualAnchorCache:
    """Plans passes under a frame budget; slot 0 is the style anchor's, then the temporal ring."""

    config: DualAnchorConfig = attrs.field(factory=DualAnchorConfig)

    def __attrs_post_init__(self) -> None:
        if self.config.temporal_budget < 0:
            raise ConfigError(
                f"temporal_budget={self.config.temporal_budget} latent frames: 0 or more."
            )
        if not 0 <= self.config.context_noise <= 1:
            raise ConfigError(f"context_noise={self.config.context_noise}: a level from 0 to 1.")

    @property
    def num_slots(self) -> int:
        """Slots of memory one stream needs."""
        return self._first_slot + self.config.temporal_budget

    @property
    def context_noise(self) -> float:
        """Noise level of emitted blocks when their keys and values are made."""
        return self.config.context_noise

    @property
    def zero_anchor_audio(self) -> bool:
        """Whether the style anchor is made with zero audio rows."""
        return self.config.zero_anchor_audio

    @property
    def _first_slot(self) -> int:
        return 1 if self.config.style_anchor else 0

    def open(self) -> Anchors:
        """Return the bookkeeping of a stream that has emitted nothing."""
        return Anchors()

    def prefill(self) -> Plan | None:
        """Return the pass that stores the portrait as style anchor; None without one."""
        if not self.config.style_anchor:
            return None
        alone = Segment(start=0, stop=1, sees_from=0)
        return Plan((0,), (alone,), saves=((0, 0),), num_silent=1, portrait=0)

    @property
    def remembers(self) -> bool:
        """Whether emitted blocks are remembered, from a clean pass."""
        return self.config.temporal_budget > 0 and self.config.history == "clean"

    @property
    def keeps_noisy(self) -> bool:
        """Whether they are remembered as the pass saw them that emitted them."""
        return self.config.temporal_budget > 0 and self.config.history == "noisy"

    def window(self, anchors: Anchors, first_frame: int, num_frames: int) -> Plan:
        """Return the plan of a window pass: everything remembered, and all of the window."""
        at = self._anchor_at(-len(anchors.slots), first_frame)
        return Plan(
            positions=tuple(range(num_frames)),
            segments=(Segment(0, num_frames, 0, anchor_at=at),),
            stored=_before(anchors, 0),
            anchor_slot=self._anchor_slot,
        )

    def emit(
        self, anchors: Anchors, first_frame: int, num_emitted: int, num_frames: int
    ) -> tuple[Plan, Anchors]:
        """Return the same for the pass that emits the head, which keeps it as it sees it."""
        after, saves = self._replace(anchors, num_emitted)
        return attrs.evolve(self.window(anchors, first_frame, num_frames), saves=saves), after

    def absorb(self, anchors: Anchors, first_frame: int, num_frames: int) -> tuple[Plan, Anchors]:
        """Return the clean pass over an emitted block, which stands at 0, and what it leaves."""
        after, saves = self._replace(anchors, num_frames)
        at = self._anchor_at(-len(anchors.slots), first_frame, clean=True)
        plan = Plan(
            positions=tuple(range(num_frames)),
            segments=(Segment(0, num_frames, 0, anchor_at=at),),
            stored=_before(anchors, 0),
            saves=saves,
            num_silent=num_frames,
            anchor_slot=self._anchor_slot,
        )
        return plan, after

    def absorb_and_window(
        self, anchors: Anchors, first_frame: int, num_pending: int, num_frames: int
    ) -> tuple[Plan, Anchors]:
        """Return both as one sequence: the clean block at -B .. -1, then the window."""
        after, saves = self._replace(anchors, num_pending)
        origin = first_frame + num_pending
        context = -num_pending - len(anchors.slots)
        window = Segment(
            start=num_pending,
            stop=num_pending + num_frames,
            sees_from=num_pending - len(saves),
            recalls_from=len(anchors.slots) - (len(after.slots) - len(saves)),
            anchor_at=self._anchor_at(-len(after.slots), origin),
        )
        plan = Plan(
            positions=tuple(range(-num_pending, num_frames)),
            segments=(
                Segment(0, num_pending, 0, anchor_at=self._anchor_at(context, origin, clean=True)),
                window,
            ),
            stored=_before(anchors, -num_pending),
            saves=saves,
            num_silent=num_pending,
            anchor_slot=self._anchor_slot,
        )
        return plan, after

    def training(self, num_history: int, block_latents: int, num_frames: int) -> Plan:
        """Return one differentiable pass over [portrait | clean history | noisy window].

        ``num_history`` clean latent frames, a multiple of ``block_latents``, are block-causal, as
        clean passes would have made them; the window sees the newest of them under the budget.
        """
        if num_history % block_latents:
            raise ConfigError(
                f"{num_history} history frames are not whole blocks of {block_latents}."
            )
        portrait = Segment(start=0, stop=1, sees_from=0)
        segments = [portrait]
        for start in range(0, num_history, block_latents):
            segments.append(self._history(start, start + block_latents, num_history))
        segments.append(self._history(num_history, num_history + num_frames, num_history))
        return Plan(
            positions=(0, *range(-num_history, num_frames)),
            segments=tuple(segments),
            num_silent=1 + num_history,
            portrait=0,
        )

    def _history(self, start: int, stop: int, num_history: int) -> Segment:
        """Return one block of a training pass; ``start, stop`` count from the oldest frame."""
        h = min(start, self.config.temporal_budget)
        context = start - h - num_history
        at = self._anchor_at(context, 1 + num_history, clean=start < num_history)
        return Segment(1 + start, 1 + stop, 1 + start - h, anchor_at=at)

    def _anchor_at(self, context: int, origin: int, *, clean: bool = False) -> int | None:
        """Return the style anchor's position: u + d, or absolute 0, or None without an anchor.

        ``context`` is u, ``origin`` the absolute index of the frame at position 0.
        """
        if not self.config.style_anchor:
            return None
        absolute = clean and self.config.cache_anchor_position == "absolute"
        if absolute or not self.config.reindex:
            return -origin
        return context + self.config.offset

    def _replace(
        self, anchors: Anchors, num_frames: int
    ) -> tuple[Anchors, tuple[tuple[int, int], ...]]:
        """Give the newest frames of a block the free slots, then the oldest ones."""
        budget = self.config.temporal_budget
        count = min(num_frames, budget)
        unused = range(self._first_slot + len(anchors.slots), self.num_slots)
        slots = (*unused, *anchors.slots)[:count]
        kept = anchors.slots[max(0, len(anchors.slots) + count - budget) :]
        saves = tuple(zip(range(num_frames - count, num_frames), slots, strict=True))
        return Anchors((*kept, *slots)), saves

    @property
    def _anchor_slot(self) -> int | None:
        return 0 if self.config.style_anchor else None


def _before(anchors: Anchors, end: int) -> tuple[tuple[int, int], ...]:
    """Return (slot, position) of the temporal anchors, the newest at ``end - 1``."""
    first = end - len(anchors.slots)
    return tuple((slot, first + i) for i, slot in enumerate(anchors.slots))
