"""Keys assembled in place: [anchor | remembered | frames of the pass] in one stretch of memory.

Every segment of a streaming pass sees one unbroken run of that stretch. The style anchor is put
right in front of the run, over a frame the segment no longer sees, so nothing is joined or moved.
"""

import attrs
import torch
from torch import Tensor

from af_core.models.attention import Attention
from af_core.models.rope import rotate
from af_core.stages.denoiser import Plan, Segment

MOST_SEGMENTS = 2
"""With more, one segment's anchor could cover a frame that a later one sees."""


def fits(plan: Plan) -> bool:
    """Tell whether each segment of a plan sees one unbroken run."""
    unbroken = all(
        s.sees_from == 0 or s.recalls_from == len(plan.stored) or not plan.stored
        for s in plan.segments
    )
    return unbroken and len(plan.segments) <= MOST_SEGMENTS and plan.portrait is None


@attrs.frozen(eq=False)
class Write:
    """Frames that are rotated into a place of the room."""

    source: slice
    """Slots, or frames of the pass."""
    rotation: Tensor
    k: Tensor
    """Where keys go, ``[b, count, s, heads, head_dim]``."""
    v: Tensor
    """Where values go."""
    pairs: Tensor | None
    """``k`` as complex numbers, written without a copy; None unless float32."""

    def __call__(self, k: Tensor, v: Tensor) -> None:
        """Fill the place from all slots, or all frames, ``[b, n, s, heads, head_dim]``."""
        k, v = k[:, self.source], v[:, self.source]
        if self.pairs is None:
            self.k.copy_(rotate(k, self.rotation))
        else:
            torch.mul(
                torch.view_as_complex(k.unflatten(-1, (-1, 2))), self.rotation, out=self.pairs
            )
        self.v.copy_(v)


@attrs.frozen(eq=False)
class Run:
    """What one segment sees."""

    segment: Segment
    anchor: Write | None
    k: Tensor
    """``[b, tokens, heads, head_dim]``, a view of the room."""
    v: Tensor


@attrs.frozen(eq=False)
class Room:
    """The stretch of memory of one pass, filled anew in every layer."""

    recalled: tuple[Write, ...]
    own: Write
    runs: tuple[Run, ...]

    def attend(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        first: int,
        attention: Attention,
        stored: tuple[Tensor, Tensor],
    ) -> Tensor:
        """Attend from rotated ``q``, which begins at frame ``first``; ``k`` is not rotated."""
        for write in self.recalled:
            write(*stored)
        self.own(k, v)
        outputs = []
        for run in self.runs:
            if run.segment.stop <= first:
                continue
            if run.anchor is not None:
                run.anchor(*stored)
            queries = q[:, max(run.segment.start - first, 0) : run.segment.stop - first]
            outputs.append(attention(queries.flatten(1, 2), run.k, run.v))
        out = outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=1)
        return out.view(*q.shape[:3], -1)


def make_room(
    plan: Plan,
    like: Tensor,
    heads: tuple[int, int],
    rotation: Tensor,
    stored_rotation: Tensor | None,
    stored_runs: tuple[tuple[int, int], ...],
    anchor_rotations: tuple[Tensor | None, ...],
) -> Room:
    """Lay out the room of a pass over tokens ``like [b, f, s, dim]``; heads: (number, width)."""
    shape = (like.shape[0], 1 + len(plan.stored) + like.shape[1], like.shape[2], *heads)
    k, v = like.new_empty(shape), like.new_empty(shape)
    pairs = torch.view_as_complex(k.unflatten(-1, (-1, 2))) if k.dtype == torch.float32 else None

    def write(source: slice, at: int, turn: Tensor) -> Write:
        here = slice(at, at + len(turn))
        return Write(
            source, turn, k[:, here], v[:, here], None if pairs is None else pairs[:, here]
        )

    recalled, at = [], 0
    for slot, count in stored_runs if stored_rotation is not None else ():
        turn = stored_rotation[at : at + count] if stored_rotation is not None else rotation
        recalled.append(write(slice(slot, slot + count), 1 + at, turn))
        at += count
    seen = []
    for segment, turn in zip(plan.segments, anchor_rotations, strict=True):
        start = 1 + (segment.recalls_from if segment.sees_from == 0 else at + segment.sees_from)
        anchor = None
        if turn is not None and plan.anchor_slot is not None:
            start -= 1
            anchor = write(slice(plan.anchor_slot, plan.anchor_slot + 1), start, turn)
        here = slice(start, 1 + at + segment.stop)
        seen.append(Run(segment, anchor, k[:, here].flatten(1, 2), v[:, here].flatten(1, 2)))
    return Room(tuple(recalled), write(slice(None), 1 + at, rotation), tuple(seen))
