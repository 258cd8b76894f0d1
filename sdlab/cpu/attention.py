"""Long attention in bfloat16 on a CPU, with the exponentials of the softmax fused into the product q kᵀ.

PyTorch's fused attention was measured at a quarter of the speed of convolutions in bfloat16. oneDNN can apply a
function to a product as it writes the result. The exponential is not available there, but the logistic function is, and
far below zero the two agree:

    logistic(x) = exp(x) / (1 + exp(x)) = exp(x) (1 − O(exp(x)))

A softmax does not change when all scores of a query are shifted, so the scores are shifted to where the two agree. The
shift is an extra column of the queries, multiplied by a column of ones in the keys. The second product returns the sum
of the exponentials through a column of ones in the values. Scores are not rounded before the exponential. Unlike in
PyTorch's attention, the scaled queries are rounded, and so are the sums before the division.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from sdlab.cpu.packed import PackedLinear
from sdlab.model import attention

_LONG = 1024  # tokens; with fewer, the fixed cost per head outweighs the gain
_SCORES = 2**21  # per part, so that they stay in the cache
_REGISTER = 16  # sums per register; products are faster if their columns fill whole registers
_BELOW = 8.0  # where exp and the logistic function agree to 3e-4, a tenth of the resolution of bfloat16
_LOWEST = 80.0  # exp(−80) is still a normal number
_ROUNDING = 2.0**-8  # of bfloat16


def attend(query: Tensor, key: Tensor, value: Tensor, heads: int, causal: bool = False) -> Tensor:
    """An `Attend` for inference on a CPU: `long_attention` where it is faster, otherwise PyTorch's."""
    if not causal and is_faster(query, key):
        found = long_attention(query, key, value, heads)
        if found is not None:
            return found
    return attention.attend(query, key, value, heads, causal)


def is_faster(query: Tensor, key: Tensor) -> bool:
    """Whether `long_attention` is faster for this query (B, T, C) and key (B, S, C)."""
    return (
        query.dtype == torch.bfloat16
        and min(query.shape[1], key.shape[1]) >= _LONG
        and not torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
    )


def long_attention(query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor | None:
    """softmax(q kᵀ / √d) v in each of `heads` heads: (B, T, C), (B, S, C), (B, S, C) -> (B, T, C).

    Returns None if scores may be so far apart that their exponentials would underflow.
    """
    q, k, v = (x.unflatten(2, (heads, -1)) for x in (query, key, value))
    width = q.shape[3]
    q = q * width**-0.5
    shift = _shift(q, k)
    if shift is None:
        return None
    # (B, heads, T, d + 1), (B, heads, S, d + 1), (B, heads, d + 1 padded to whole registers, S)
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
                # The last part overlaps the previous one, because fewer rows would need keys and values packed again.
                part = slice(min(i, q.shape[2] - rows), i + rows)
                sums = values(keys(q[b, head, part], "sigmoid"))
                out[b, part, head * width : (head + 1) * width] = sums[:, :width] / sums[:, width : width + 1]
    return out


def _shift(query: Tensor, key: Tensor) -> Tensor | None:
    """The shift of each query's scores, (B, T, heads, 1), that puts all below zero and the largest not too far below.

    By the Cauchy–Schwarz inequality, scores differ from their mean by at most the norm of the query times the largest
    distance of a key from the mean key. The mean score is the product with the mean key. Returns None if the largest
    score may still be too far below zero.
    """
    mean = key.mean(1, keepdim=True, dtype=torch.float32)
    farthest = (key - mean).norm(dim=-1, keepdim=True).amax(1, keepdim=True)  # (B, 1, heads, 1)
    scores = (query * mean).sum(-1, keepdim=True)
    wanted = scores + torch.linalg.vector_norm(query, dim=-1, keepdim=True, dtype=torch.float32) * farthest + _BELOW
    shift = -(wanted + wanted.abs() * _ROUNDING).to(query.dtype)
    # The largest score of a query is at least its mean score.
    return shift if (scores + shift).min() >= -_LOWEST else None
