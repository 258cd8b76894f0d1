"""Long attention in bfloat16 on a CPU, without a pass over the scores for the softmax.

The fused attention of PyTorch was measured at a quarter of the speed of convolutions in bfloat16. Here oneDNN takes the
exponentials on its way out of the product q kᵀ. It knows none, but a logistic function, and far below zero that is one:

    logistic(x) = exp(x) / (1 + exp(x)) = exp(x) (1 − O(exp(x))),

so a shift that is the same for all keys, which a softmax cancels, puts every score there. The sum over the keys comes
out of the second product, with a column of ones beside the values. No score is rounded before its exponential; what
PyTorch's does not round is the scaled query, and the sums before their division.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sdlab.model.packed import PackedLinear, can_pack

_ROWS = 512  # queries at a time: their scores should stay in the cache
_BELOW = 8.0  # where exp is a logistic function to 3e-4, a tenth of what bfloat16 resolves
_LOWEST = 80.0  # exp(−80) is still a normal number


def is_faster(query: Tensor, key: Tensor) -> bool:
    """Whether `attend` is for this query (B, T, C) and key (B, S, C)."""
    return (
        query.dtype == torch.bfloat16
        and min(query.shape[1], key.shape[1]) >= 2 * _ROWS
        and not torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
        and can_pack(query.device, query.dtype)
    )


def attend(query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor | None:
    """softmax(q kᵀ / √d) v in each of `heads` heads: (B, T, C), (B, S, C), (B, S, C) -> (B, T, C).

    None where scores may lie so far apart that their exponentials would vanish.
    """
    width = query.shape[2] // heads
    query = query * width**-0.5
    farthest, shift = _bounds(query, key, heads)
    if not farthest <= _LOWEST:
        return None
    bias = query.new_full((key.shape[1],), -shift)
    one = value.new_ones(1, key.shape[1])
    out = torch.empty_like(query)
    for b in range(query.shape[0]):
        for part in (slice(head * width, (head + 1) * width) for head in range(heads)):
            keys = PackedLinear(key[b, :, part].contiguous(), bias)
            values = PackedLinear(torch.cat([value[b, :, part].T, one]), None)
            for i in range(0, query.shape[1], _ROWS):
                # The last rows again rather than fewer, for which the factors would be packed anew.
                rows = slice(min(i, query.shape[1] - _ROWS), i + _ROWS)
                sums = values(keys(query[b, rows, part].contiguous(), "sigmoid"))
                out[b, rows, part] = sums[:, :width] / sums[:, width:]
    return out


def _bounds(query: Tensor, key: Tensor, heads: int) -> tuple[float, float]:
    """How far below zero the largest score of a query may come to lie, and the shift that puts all scores there."""
    q, k = (x.unflatten(2, (heads, -1)).float() for x in (query, key))
    longest = q.norm(dim=-1).amax(1)  # (B, heads)
    # A whole number, which bfloat16 holds exactly.
    shift = ((longest * k.norm(dim=-1).amax(1)).max() + _BELOW).ceil().item()
    # The largest score is no less than the mean one, which is q times the mean key.
    return shift + (longest * k.mean(1).norm(dim=-1)).max().item(), shift
