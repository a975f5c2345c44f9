"""What the network is told from outside, and the values a stream carries."""

from collections import OrderedDict
from collections.abc import Sequence

import attrs
import torch
from torch import Tensor

from af_core.models.wan_config import CausalWanConfig as CausalWanConfig
from af_core.models.wan_layers import LayerModulation, PromptKeys
from af_core.stages.denoiser import Plan


@attrs.frozen(eq=False)
class Modulation:
    """Shifts, scales and gates of the frames of one pass, for every layer and the head."""

    layers: tuple[LayerModulation, ...]
    head_shift: Tensor
    head_scale: Tensor
    """1 + scale; both ``[b or 1, f, 1, dim]``."""


@attrs.frozen(eq=False)
class Conditions:
    """What stays constant for a stream: portrait, prompt and grid."""

    portrait: Tensor
    """The reference latent ``[b, 1, c, h, w]``."""
    portrait_tokens: Tensor
    """Reference and mask part of the patch embedding of the portrait's own frame [b, s, dim]."""
    other_tokens: Tensor
    """The same for every other frame (mask 1)."""
    text: tuple[PromptKeys | None, ...]
    """What each layer attends to of the prompt."""
    grid: tuple[int, int]
    """Rows and columns of tokens."""
    detail: Tensor | None = None
    """What cells see of the reference, ``[b, 1, s, patch * patch, width]``."""
    modulations: OrderedDict[tuple[float, ...], Modulation] = attrs.field(factory=OrderedDict)
    """Modulations already computed, by timesteps; the newest few are kept."""

    @property
    def num_streams(self) -> int:
        """Streams in the batch."""
        return self.portrait_tokens.shape[0]


@attrs.frozen(eq=False)
class KeyValues:
    """Memory: one slot per latent frame in every layer, written in place.

    Keys are stored before rotation, so that a frame may be seen from any position.
    """

    k: Tensor
    """``[layer, b, slot, s, heads, head_dim]``."""
    v: Tensor

    def recall(self, layer: int, plan: Plan) -> tuple[Tensor, Tensor]:
        """Return the slots of a layer, ``[b, slot, s, heads, head_dim]``, in which a plan reads."""
        return self.k[layer], self.v[layer]

    def save(self, layer: int, k: Tensor, v: Tensor, plan: Plan) -> None:
        """Write frames of ``k, v [b, f, s, heads, head_dim]`` into slots, run by run."""
        for frame, slot, count in runs(plan.saves):
            self.k[layer, :, slot : slot + count].copy_(k[:, frame : frame + count])
            self.v[layer, :, slot : slot + count].copy_(v[:, frame : frame + count])


@attrs.frozen(eq=False)
class SharedKeyValues:
    """The memories of several streams during one step (`af_core.stages.sharing`).

    What a layer reads is gathered when it reads it, so no stream has to lie beside another; what
    it overwrites is kept, so that a step which fails has changed nothing.
    """

    memories: tuple[KeyValues, ...]
    before: dict[tuple[int, int], tuple[Tensor, Tensor]] = attrs.field(factory=dict)
    """What slots held, ``[layer, s, heads, head_dim]``, by (stream, slot)."""

    def recall(self, layer: int, plan: Plan) -> tuple[Tensor, Tensor]:
        """Return copies of the slots that a plan reads, under the numbers it gives them."""
        count = 1 + max([plan.anchor_slot or 0, *(slot for slot, _ in plan.stored)])
        k, v = (
            torch.cat(
                [
                    getattr(memory, name)[layer, 0, slot : slot + n]
                    for memory, slots in zip(self.memories, plan.slots, strict=True)
                    for _, slot, n in runs(tuple(enumerate(slots[:count])))
                ]
            ).unflatten(0, (len(self.memories), -1))
            for name in ("k", "v")
        )
        return k, v

    def save(self, layer: int, k: Tensor, v: Tensor, plan: Plan) -> None:
        """Write frames of ``k, v [b, f, s, heads, head_dim]`` into each stream's own slots."""
        for i, (memory, slots) in enumerate(zip(self.memories, plan.slots, strict=True)):
            for frame, named in plan.saves:
                slot = slots[named]
                if (i, slot) not in self.before:
                    held = memory.k[:, 0, slot].clone(), memory.v[:, 0, slot].clone()
                    self.before[i, slot] = held
                memory.k[layer, 0, slot].copy_(k[i, frame])
                memory.v[layer, 0, slot].copy_(v[i, frame])

    def restore(self) -> None:
        """Give every slot back what it held."""
        for (i, slot), (k, v) in self.before.items():
            self.memories[i].k[:, 0, slot].copy_(k)
            self.memories[i].v[:, 0, slot].copy_(v)


Memory = KeyValues | SharedKeyValues


def runs(pairs: tuple[tuple[int, int], ...]) -> list[tuple[int, int, int]]:
    """Group (a, b) pairs that both rise by one into (first a, first b, count)."""
    found: list[tuple[int, int, int]] = []
    for a, b in pairs:
        if found and (a, b) == (found[-1][0] + found[-1][2], found[-1][1] + found[-1][2]):
            found[-1] = (*found[-1][:2], found[-1][2] + 1)
        else:
            found.append((a, b, 1))
    return found


def timestep_features(timesteps: Tensor, dim: int, dtype: torch.dtype) -> Tensor:
    """Describe timesteps ``[...]`` by ``dim`` cosines and sines of float64 angles (spec 1.3)."""
    half = dim // 2
    place = torch.arange(half, dtype=torch.float64, device=timesteps.device)
    angles = timesteps.double()[..., None] * 10_000.0 ** (-place / half)
    return torch.cat([angles.cos(), angles.sin()], dim=-1).to(dtype)


def joined_prompts(prompts: Sequence[PromptKeys | None]) -> PromptKeys | None:
    """Return what a batch of streams attends to of its prompts, which are equally long."""
    present = [prompt for prompt in prompts if prompt is not None]
    if not present:
        return None
    k, v, logits = zip(*present, strict=True)
    return torch.cat(k), torch.cat(v), logits[0]
