"""Long attention in bfloat16 on a CPU, without a pass over the scores for the softmax.

The fused attention of PyTorch was measured at a quarter of the speed of convolutions in bfloat16. Here oneDNN takes the
exponentials on its way out of the product q kᵀ. It knows none, but a logistic function, and far below zero that is one:

    logistic(x) = exp(x) / (1 + exp(x)) = exp(x) (1 − O(exp(x))),

so a shift of all scores of a query, which a softmax cancels, puts them there. It is one more column of the queries, to
be multiplied by ones beside the keys; the sum over the keys comes out of the second product, with a column of ones
beside the values. No score is rounded before its exponential; what PyTorch's does not round is the scaled query, and
the sums before their division.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from sdlab.cpu.packed import PackedLinear, can_pack

_LONG = 1024  # tokens; with fewer, the fixed cost of each head counts
_SCORES = 2**21  # at a time: they should stay in the cache
_REGISTER = 16  # sums in one; a product of a number of columns that fills them is faster
_BELOW = 8.0  # where exp is a logistic function to 3e-4, a tenth of what bfloat16 resolves
_LOWEST = 80.0  # exp(−80) is still a normal number
_ROUNDING = 2.0**-8  # of bfloat16


def is_faster(query: Tensor, key: Tensor) -> bool:
    """Whether `attend` is for this query (B, T, C) and key (B, S, C)."""
    return (
        query.dtype == torch.bfloat16
        and min(query.shape[1], key.shape[1]) >= _LONG
        and not torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
        and can_pack(query.device, query.dtype)
    )


def attend(query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor | None:
    """softmax(q kᵀ / √d) v in each of `heads` heads: (B, T, C), (B, S, C), (B, S, C) -> (B, T, C).

    None where scores may lie so far apart that their exponentials would vanish.
    """
    q, k, v = (x.unflatten(2, (heads, -1)) for x in (query, key, value))
    width = q.shape[3]
    q = q * width**-0.5
    shift = _shift(q, k)
    if shift is None:
        return None
    # (B, heads, T, d + 1), (B, heads, S, d + 1), (B, heads, d + 1 and what fills a register, S)
    q = torch.cat([q, shift], -1).transpose(1, 2).contiguous()
    k = torch.cat([k, torch.ones_like(k[..., :1])], -1).transpose(1, 2).contiguous()
    v = F.pad(torch.cat([v, torch.ones_like(v[..., :1])], -1), (0, -(width + 1) % _REGISTER))
    v = v.permute(0, 2, 3, 1).contiguous()
    out = torch.empty_like(query)
    rows = max(1, min(q.shape[2], _SCORES // k.shape[2]))
    for b in range(q.shape[0]):
        for head in range(heads):
            keys, values = PackedLinear(k[b, head], None), PackedLinear(v[b, head], None)
            for i in range(0, q.shape[2], rows):
                # The last rows again rather than fewer, for which the factors would be packed anew.
                part = slice(min(i, q.shape[2] - rows), i + rows)
                sums = values(keys(q[b, head, part], "sigmoid"))
                out[b, part, head * width : (head + 1) * width] = sums[:, :width] / sums[:, width : width + 1]
    return out


def _shift(query: Tensor, key: Tensor) -> Tensor | None:
    """What to add to the scores of each query, (B, T, heads, 1): all come to lie below zero, the largest not too far.

    By Cauchy and Schwarz no score lies further from a query's mean score, which is its product with the mean key, than
    the length of the query times that of the longest key seen from the mean one.
    """
    mean = key.mean(1, keepdim=True, dtype=torch.float32)
    farthest = (key - mean).norm(dim=-1, keepdim=True).amax(1, keepdim=True)  # (B, 1, heads, 1)
    scores = (query * mean).sum(-1, keepdim=True)
    wanted = scores + torch.linalg.vector_norm(query, dim=-1, keepdim=True, dtype=torch.float32) * farthest + _BELOW
    shift = -(wanted + wanted.abs() * _ROUNDING).to(query.dtype)
    # The largest score of a query is no less than the mean one.
    return shift if (scores + shift).min() >= -_LOWEST else None
