"""The layers of the Wan 2.1 transformer, under the authors' parameter names."""

from collections.abc import Callable
from typing import Any

import attrs
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from af_core.models.attention import Attention
from af_core.models.packed import PackedLayer, can_pack
from af_core.models.rope import rotate

PromptKeys = tuple[Tensor, Tensor, Tensor | None]
"""Keys and values of a prompt ``[b, token, heads, head_dim]``, and what is added to its logits."""


class RMSNorm(nn.Module):
    """Root-mean-square norm over the full width, in float32, times a learned weight."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last axis."""
        if x.dtype == torch.float32:
            return F.rms_norm(x, x.shape[-1:], self.weight, self.eps)
        return F.rms_norm(x.float(), x.shape[-1:], None, self.eps).to(x.dtype) * self.weight


class Projections(nn.Module):
    """q, k, v, o and the norms of q and k, of self- and of cross-attention."""

    def __init__(self, dim: int, num_heads: int, eps: float, qk_norm: bool) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q = nn.Linear(dim, dim)
        self.k = nn.Linear(dim, dim)
        self.v = nn.Linear(dim, dim)
        self.o = nn.Linear(dim, dim)
        self.norm_q = RMSNorm(dim, eps) if qk_norm else nn.Identity()
        self.norm_k = RMSNorm(dim, eps) if qk_norm else nn.Identity()

    @property
    def norm_weights(self) -> tuple[Tensor, Tensor] | None:
        """Weights of the norms of q and k, if there are any."""
        if isinstance(self.norm_q, RMSNorm) and isinstance(self.norm_k, RMSNorm):
            return self.norm_q.weight, self.norm_k.weight
        return None

    def query(self, x: Tensor) -> Tensor:
        """Return normed queries ``[..., heads, head_dim]``."""
        return self.norm_q(self.q(x)).unflatten(-1, (self.num_heads, -1))

    def key(self, x: Tensor) -> Tensor:
        """Return normed keys ``[..., heads, head_dim]``, before any rotation."""
        return self.norm_k(self.k(x)).unflatten(-1, (self.num_heads, -1))

    def value(self, x: Tensor) -> Tensor:
        """Return values ``[..., heads, head_dim]``."""
        return self.v(x).unflatten(-1, (self.num_heads, -1))


@attrs.frozen(eq=False)
class LayerModulation:
    """Shift, 1 + scale and gate of both halves of a layer, each ``[b or 1, f, 1, dim]``."""

    shift_attention: Tensor
    scale_attention: Tensor
    gate_attention: Tensor
    shift_ffn: Tensor
    scale_ffn: Tensor
    gate_ffn: Tensor

    def from_frame(self, first: int) -> "LayerModulation":
        """Return the modulation of the frames from ``first`` on."""
        return LayerModulation(*(part[:, first:] for part in attrs.astuple(self, recurse=False)))


class Layer(nn.Module):
    """One transformer layer: modulated self-attention, text, modulated feed-forward."""

    def __init__(
        self, dim: int, ffn_dim: int, num_heads: int, eps: float, qk_norm: bool, text: bool
    ) -> None:
        super().__init__()
        self.eps = eps
        self.packed: PackedLayer | None = None
        self.modulation = _modulation_table(6, dim)
        self.self_attn = Projections(dim, num_heads, eps, qk_norm)
        if text:
            self.norm3 = nn.LayerNorm(dim, eps=eps)
            self.cross_attn = Projections(dim, num_heads, eps, qk_norm)
        self.ffn = nn.Sequential(
            nn.Linear(dim, ffn_dim), nn.GELU(approximate="tanh"), nn.Linear(ffn_dim, dim)
        )

    def pack(self) -> None:
        """Rearrange the weights for inference on this CPU; they must not change afterwards."""
        if can_pack(self.self_attn.q.weight):
            self.packed = PackedLayer.of(self)

    def train(self, mode: bool = True) -> "Layer":
        """Switch to training, which the rearranged weights cannot follow, or to inference."""
        if mode:
            self.packed = None
        return super().train(mode)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Layer":
        self.packed = None
        return super()._apply(fn, recurse)

    def _load_from_state_dict(self, *arguments: Any, **options: Any) -> None:
        self.packed = None
        super()._load_from_state_dict(*arguments, **options)

    def modulate(self, six: Tensor) -> tuple[Tensor, ...]:
        """Return the parts of ``LayerModulation`` for frames told by ``six [b, f, 6, dim]``."""
        parts = list((self.modulation + six).unsqueeze(-2).unbind(2))
        parts[1], parts[4] = 1 + parts[1], 1 + parts[4]
        return tuple(parts)

    def read(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return keys and values of a prompt's embedded ``rows [b, token, dim]``."""
        return self.cross_attn.key(rows), self.cross_attn.value(rows)

    def qkv(
        self, x: Tensor, m: LayerModulation, rotation: Tensor, first_query: int = 0
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return q from ``first_query`` on, rotated, and k, which is not, and v.

        All are ``[b, f, s, heads, head_dim]``; ``rotation [f, s, 1, head_dim / 2]``.
        """
        h = modulated(x, m.shift_attention, m.scale_attention, self.eps)
        a = self.self_attn
        if self.packed is not None and not torch.is_grad_enabled():
            qk, v = self.packed.query_key_value(h, a.num_heads, self.eps)
            q, k = qk.unbind(-3)
            return rotate(q[:, first_query:], rotation[first_query:]), k, v
        q = a.query(h[:, first_query:])
        return rotate(q, rotation[first_query:]), a.key(h), a.value(h)

    def finish(
        self,
        x: Tensor,
        attended: Tensor,
        m: LayerModulation,
        text: PromptKeys | None,
        attention: Attention,
    ) -> Tensor:
        """Add what was attended to, then text, then the feed-forward; ``x [b, f, s, dim]``."""
        packed = None if torch.is_grad_enabled() else self.packed
        project = self.self_attn.o if packed is None else packed.o
        x = torch.addcmul(x, m.gate_attention, project(attended))
        if text is not None:
            q = self.cross_attn.query(self.norm3(x)).flatten(1, 2)
            x = x + self.cross_attn.o(attention(q, *text)).view_as(x)
        h = modulated(x, m.shift_ffn, m.scale_ffn, self.eps)
        h = self.ffn(h) if packed is None else packed.down(packed.up(h))
        return torch.addcmul(x, m.gate_ffn, h)


class AudioProjection(nn.Module):
    """Packs the four feature rows of a latent frame into one small normed vector."""

    def __init__(self, packed_dim: int, hidden: int) -> None:
        super().__init__()
        self.proj = nn.Linear(packed_dim, hidden)
        self.norm_out = nn.LayerNorm(hidden, eps=1e-5)

    def forward(self, packed: Tensor) -> Tensor:
        """Map ``[b, f, 4 d]`` to ``[b, f, hidden]``."""
        return self.norm_out(self.proj(packed))


class Head(nn.Module):
    """Last norm, modulation and projection to the pixels of a latent patch."""

    def __init__(self, dim: int, out_dim: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.modulation = _modulation_table(2, dim)
        self.head = nn.Linear(dim, out_dim)

    def settle(self, x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
        """Return ``x [b, f, s, dim]`` normed and modulated; ``scale`` is 1 + scale."""
        return modulated(x, shift, scale, self.eps)

    def forward(self, x: Tensor) -> Tensor:
        """Map settled ``[b, f, s, dim]`` to ``[b, f, s, patch * patch * c]``."""
        return self.head(x)


def modulated(x: Tensor, shift: Tensor, scale: Tensor, eps: float) -> Tensor:
    """Return ``LayerNorm(x) * scale + shift``, rounded once under autocast, not at each use."""
    made = torch.addcmul(shift, F.layer_norm(x, x.shape[-1:], eps=eps), scale)
    kind = x.device.type
    return made.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else made


def _modulation_table(rows: int, dim: int) -> nn.Parameter:
    """Return a random table; on the device ``meta``, where drawing is slow, an empty one."""
    table = torch.empty(1, rows, dim)
    return nn.Parameter(table if table.is_meta else table.normal_().div_(dim**0.5))
