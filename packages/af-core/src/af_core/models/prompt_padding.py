"""The padding of a prompt as one key: equal rows are counted in the logit (spec section 1.6)."""

import math

import torch
from torch import Tensor

EXACT = (torch.float32, torch.float64)
"""Types in which the logarithm of a count loses nothing; bfloat16 would be off by up to 1.6 %."""


def merge_padding(text: Tensor) -> tuple[Tensor, Tensor | None]:
    """Return the rows to attend to and what is added to their logits, None for nothing.

    ``text [b, token, d]`` ends in rows of zeros, which all become the same key and value. So m of
    them weigh exactly as much as one whose logit is log(m) higher, and ``[b, n + 1, d]`` with
    ``[1, n + 1]`` comes back, n being the rows that any prompt of the batch uses. Types that
    would round log(m) are left alone, and so are rows that are being trained. One look at the
    values: on a GPU, a synchronisation.
    """
    if text.dtype not in EXACT or text.requires_grad:
        return text, None
    used = text.ne(0).any(2).any(0).nonzero()
    count = int(used[-1]) + 1 if len(used) else 0
    padding = text.shape[1] - count
    if padding < 2:
        return text, None
    logits = text.new_zeros(1, count + 1)
    logits[0, -1] = math.log(padding)
    return text[:, : count + 1], logits
