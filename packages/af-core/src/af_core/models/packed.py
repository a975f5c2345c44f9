"""A layer's weights rearranged for the fastest kernels of the CPU it runs on.

oneDNN keeps matrices in blocks that suit its loops, adds the bias and applies GELU while the
result is in registers, and computes q, k and v as one product. The plain layer is its oracle.
"""

from typing import TYPE_CHECKING

import attrs
import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from af_core.models.wan_layers import Layer

_TOKENS = 80
"""Rows the blocks are chosen for; any other number works."""


def can_pack(weight: Tensor) -> bool:
    """Tell whether a weight lies where the packed kernels run."""
    has = hasattr(torch.ops.mkldnn, "_linear_pointwise") and torch.backends.mkldnn.is_available()
    if not has or weight.device.type != "cpu":
        return False
    if weight.dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return weight.dtype == torch.float32


@attrs.frozen(eq=False)
class PackedLinear:
    """``x @ weight.T + bias``, and GELU after it if asked for."""

    weight: Tensor
    bias: Tensor
    activation: str = "none"

    @classmethod
    def of(cls, *linears: nn.Linear, activation: str = "none") -> "PackedLinear":
        """Pack linear layers of one input into one."""
        weight = torch.cat([linear.weight.detach() for linear in linears])
        bias = torch.cat([linear.bias.detach() for linear in linears])
        packed = torch.ops.mkldnn._reorder_linear_weight(weight, _TOKENS)
        return cls(packed, bias, activation)

    def __call__(self, x: Tensor) -> Tensor:
        """Map the last axis."""
        return torch.ops.mkldnn._linear_pointwise(
            x, self.weight, self.bias, self.activation, [], "tanh"
        )


@attrs.frozen(eq=False)
class PackedLayer:
    """The products of one layer."""

    qkv: PackedLinear
    o: PackedLinear
    up: PackedLinear
    down: PackedLinear
    norm: Tensor | None
    """Weights of the norms of q and k ``[2, dim]``."""

    @classmethod
    def of(cls, layer: "Layer") -> "PackedLayer":
        """Pack a layer; its weights must not change afterwards."""
        a, up, down = layer.self_attn, layer.ffn[0], layer.ffn[2]
        return cls(
            qkv=PackedLinear.of(a.q, a.k, a.v),
            o=PackedLinear.of(a.o),
            up=PackedLinear.of(_linear(up), activation="gelu"),
            down=PackedLinear.of(_linear(down)),
            norm=None if a.norm_weights is None else torch.stack(a.norm_weights).detach(),
        )

    def query_key_value(self, h: Tensor, num_heads: int, eps: float) -> tuple[Tensor, Tensor]:
        """Return normed q and k ``[..., 2, heads, head_dim]`` and v ``[..., heads, head_dim]``."""
        made = self.qkv(h).unflatten(-1, (3, -1))
        qk, v = made[..., :2, :], made[..., 2, :]
        if self.norm is not None:
            size = torch.linalg.vector_norm(qk, dim=-1, keepdim=True, dtype=torch.float32)
            scale = size.square_().div_(qk.shape[-1]).add_(eps).rsqrt_()
            qk = (qk * scale).to(v.dtype) * self.norm
        return qk.unflatten(-1, (num_heads, -1)), v.unflatten(-1, (num_heads, -1))


def _linear(module: nn.Module) -> nn.Linear:
    if not isinstance(module, nn.Linear):
        raise TypeError(f"{type(module).__name__} is no linear layer")
    return module
