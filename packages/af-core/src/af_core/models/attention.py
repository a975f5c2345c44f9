"""Scaled dot-product attention, by whichever of two exact kernels is faster where it runs."""

import math
import time
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

Kernel = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]
KernelName = Literal["auto", "steady", "sdpa", "explicit"]

_BENCHMARK_S = 0.05
_EXPLICIT_KEYS = 1024
"""With more keys than this, the scores of the explicit kernel take more memory than is fair."""


def sdpa(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Attend with PyTorch's fused kernel; tensors are ``[b, heads, tokens, head_dim]``."""
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def explicit(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Attend with two matrix products and a softmax in between."""
    scores = (q * (1.0 / math.sqrt(q.shape[-1]))) @ k.transpose(-1, -2)
    if mask is not None and mask.dtype == torch.bool:
        scores = scores.masked_fill(~mask, float("-inf"))
    elif mask is not None:
        scores = scores + mask
    return scores.softmax(-1) @ v


KERNELS: dict[str, Kernel] = {"sdpa": sdpa, "explicit": explicit}


class Attention:
    """Softmax attention that picks its kernel at first use of a shape class.

    On CPU, without gradients, both kernels race for 50 ms per (dtype, shape class) and the winner
    is kept; elsewhere the fused kernel runs. Both are exact, but round differently, so two loads
    of one pipeline may differ in the last bits of a float if their races end differently.
    ``kernel`` forces one of them: then they do not; nor with ``steady``, a fixed rule that training
    goes by. One object may serve any number of threads.
    """

    def __init__(self, kernel: KernelName = "auto") -> None:
        self.kernel: KernelName = kernel
        self.winners: dict[tuple[object, ...], str] = {}

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attend: ``q [b, tq, heads, d]``, ``k, v [b, tk, heads, d]`` to ``[b, tq, heads * d]``.

        ``mask`` is boolean ``[tq, tk]``, true where a query sees a key, or a float of the type
        of ``q`` that is added to the logits; ``[1, tk]`` holds for every query.
        """
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        return KERNELS[self._choose(q, k, v, mask)](q, k, v, mask).transpose(1, 2).flatten(2)

    def _choose(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> str:
        if self.kernel == "steady":
            return _steady(q, k)
        if self.kernel != "auto":
            return self.kernel
        if q.is_cuda or torch.is_grad_enabled() or torch.compiler.is_compiling():
            return "sdpa"
        key = (q.dtype, *(_size_class(n) for n in (q.shape[0], q.shape[1], q.shape[2])),
               _size_class(k.shape[2]), q.shape[3], torch.get_num_threads())  # fmt: skip
        winner = self.winners.get(key)  # of threads that race, the first to finish decides
        return winner or self.winners.setdefault(key, _race(q, k, v, mask))


def _steady(q: Tensor, k: Tensor) -> str:
    """Return the fused kernel, but not in bfloat16 on CPU, where its gradients take twice as long.

    Measured with 208 tokens of 64 channels; many keys take the fused kernel for their memory.
    """
    half = q.dtype == torch.bfloat16 or (
        torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16
    )
    explicit_wins = q.device.type == "cpu" and half and k.shape[2] <= _EXPLICIT_KEYS
    return "explicit" if explicit_wins else "sdpa"


def _size_class(count: int) -> int:
    """Return the power of two at or above ``count``."""
    return 1 << (count - 1).bit_length()


def _race(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> str:
    best = dict.fromkeys(KERNELS, math.inf)
    stop = time.perf_counter() + _BENCHMARK_S
    rounds = 0
    while rounds < 2 or (time.perf_counter() < stop and rounds < 50):
        for name, kernel in KERNELS.items():
            begin = time.perf_counter()
            kernel(q, k, v, mask)
            best[name] = min(best[name], time.perf_counter() - begin)
        rounds += 1
    return min(best, key=lambda name: best[name])
