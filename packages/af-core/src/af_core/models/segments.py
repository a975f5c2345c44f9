"""Self-attention of one pass, segment by segment, over the keys its plan names."""

import attrs
import torch
from torch import Tensor

from af_core.models.attention import Attention
from af_core.models.room import Room, fits, make_room
from af_core.models.rope import RotaryPositions, rotate
from af_core.models.wan_values import Memory, runs
from af_core.stages.denoiser import Plan


@attrs.frozen(eq=False)
class Layout:
    """A plan with its rotations computed and, at inference, room to assemble keys in."""

    plan: Plan
    rotation: Tensor
    """Of the frames of the pass, ``[f, s, 1, head_dim / 2]``."""
    anchor_rotations: tuple[Tensor | None, ...]
    """Of the style anchor, as each segment sees it."""
    stored_rotation: Tensor | None
    stored_runs: tuple[tuple[int, int], ...]
    """(first slot, count) of neighbouring slots, in the order of ``plan.stored``."""
    room: Room | None
    """Where keys are assembled in place; None, for training, joins them by copying."""


def lay_out(
    plan: Plan,
    rotary: RotaryPositions,
    grid: tuple[int, int],
    like: Tensor,
    heads: tuple[int, int] | None,
) -> Layout:
    """Prepare a plan for the tokens ``like [b, f, s, dim]``.

    ``heads`` (number, width) makes room to assemble keys in; None, for training, does not.
    """
    device = like.device
    slots = tuple((i, slot) for i, (slot, _) in enumerate(plan.stored))
    stored_runs = tuple((slot, count) for _, slot, count in runs(slots))
    rotation = rotary(plan.positions, grid, device)
    stored = rotary([p for _, p in plan.stored], grid, device) if plan.stored else None
    anchors = tuple(
        None if s.anchor_at is None else rotary((s.anchor_at,), grid, device) for s in plan.segments
    )
    room = None
    if heads is not None and fits(plan):
        room = make_room(plan, like, heads, rotation, stored, stored_runs, anchors)
    return Layout(plan, rotation, anchors, stored, stored_runs, room)


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    layout: Layout,
    attention: Attention,
    stored: tuple[Tensor, Tensor] | None,
) -> Tensor:
    """Attend from ``q`` to what each segment sees; all are ``[b, f, s, heads, head_dim]``.

    ``q`` is rotated, ``k`` is not; ``q`` may lack the silent leading frames.
    ``stored`` holds this layer's slots. Returns ``[b, f, s, dim]`` for the frames of ``q``.
    """
    plan = layout.plan
    first = k.shape[1] - q.shape[1]
    if layout.room is not None and stored is not None:
        return layout.room.attend(q, k, v, first, attention, stored)
    turned = rotate(k, layout.rotation)
    recalled = _recall(layout, stored)
    anchor = _anchor(plan, k, v, stored)
    outputs = []
    for segment, anchor_rotation in zip(plan.segments, layout.anchor_rotations, strict=True):
        if segment.stop <= first:
            continue
        keys = [turned[:, segment.sees_from : segment.stop]]
        values = [v[:, segment.sees_from : segment.stop]]
        if recalled is not None and segment.recalls_from < len(plan.stored):
            keys.insert(0, recalled[0][:, segment.recalls_from :])
            values.insert(0, recalled[1][:, segment.recalls_from :])
        if anchor_rotation is not None:
            keys.insert(0, rotate(anchor[0], anchor_rotation))
            values.insert(0, anchor[1])
        queries = q[:, max(segment.start - first, 0) : segment.stop - first].flatten(1, 2)
        outputs.append(attention(queries, _join(keys), _join(values)))
    out = outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=1)
    return out.view(*q.shape[:3], -1)


def _anchor(
    plan: Plan, k: Tensor, v: Tensor, stored: tuple[Tensor, Tensor] | None
) -> tuple[Tensor, Tensor]:
    """Return the style anchor's unrotated key and its value, one frame each."""
    if plan.anchor_slot is not None and stored is not None:
        where = slice(plan.anchor_slot, plan.anchor_slot + 1)
        return stored[0][:, where], stored[1][:, where]
    where = slice(plan.portrait or 0, (plan.portrait or 0) + 1)
    return k[:, where], v[:, where]


def _recall(layout: Layout, stored: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor] | None:
    """Return rotated keys and values of the remembered frames, oldest first."""
    if stored is None or layout.stored_rotation is None:
        return None
    k, v = (
        torch.cat([memory[:, slot : slot + n] for slot, n in layout.stored_runs], dim=1)
        for memory in stored
    )
    return rotate(k, layout.stored_rotation), v


def _join(parts: list[Tensor]) -> Tensor:
    """Put the tokens of frames one behind the other, ``[b, tokens, heads, head_dim]``."""
    return (parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)).flatten(1, 2)


def save(memory: Memory | None, layer: int, k: Tensor, v: Tensor, plan: Plan) -> None:
    """Keep the frames the plan names."""
    if memory is not None and plan.saves:
        memory.save(layer, k, v, plan)
