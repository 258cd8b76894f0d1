"""Attention layers of all three networks, and the transformer of the U-Net.

(Vaswani et al. 2017, arXiv:1706.03762, eq. 1; Rombach et al. 2022, arXiv:2112.10752, sec. 3.3 and app. E.2.1.)
"""

from __future__ import annotations

from typing import Protocol

import torch.nn.functional as F
from torch import Tensor, nn

from sdlab.model.perturbation import UNPERTURBED, Perturbed
from sdlab.model.zero import zeroed


class Attend(Protocol):
    """A function that computes multi-head attention."""

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, heads: int, causal: bool = False) -> Tensor:
        """softmax(q kᵀ / √d) v in each of `heads` heads: (B, T, C), (B, S, C), (B, S, C) -> (B, T, C).

        `causal` hides later keys from each query.
        """
        ...


def attend(query: Tensor, key: Tensor, value: Tensor, heads: int, causal: bool = False) -> Tensor:
    """PyTorch's scaled dot-product attention as an `Attend`."""
    q, k, v = (x.view(*x.shape[:2], heads, -1).transpose(1, 2) for x in (query, key, value))  # (B, heads, T, d)
    return F.scaled_dot_product_attention(q, k, v, is_causal=causal).transpose(1, 2).flatten(2)


class Attention(nn.Module):
    """Multi-head attention from x (B, T, C) to a context (B, S, C_ctx), or self-attention without a context.

    `attend` computes it and can be replaced, as `sdlab.cpu` does.
    """

    def __init__(self, width: int, heads: int, context_width: int | None = None, qkv_bias: bool = False) -> None:
        super().__init__()
        self.attend: Attend = attend
        self.heads = heads
        self.query = nn.Linear(width, width, bias=qkv_bias)
        self.key = nn.Linear(context_width or width, width, bias=qkv_bias)
        self.value = nn.Linear(context_width or width, width, bias=qkv_bias)
        self.out = nn.Linear(width, width)

    def forward(
        self, x: Tensor, context: Tensor | None = None, causal: bool = False, perturbed: Perturbed = UNPERTURBED
    ) -> Tensor:
        """(B, T, C) -> (B, T, C); `causal` hides later tokens."""
        if context is not None:
            return self._cross(x, context, perturbed)
        query, key, value = perturbed.at("query", self.query(x)), self.key(x), self.value(x)
        perturbed.record(query, key, self.heads)
        attended = self.attend(query, key, value, self.heads, causal)
        return self.out(perturbed.at("self_attention", attended, lambda rows: value[rows]))

    def _cross(self, x: Tensor, context: Tensor, perturbed: Perturbed) -> Tensor:
        query = self.query(x)

        def attended(query: Tensor, context: Tensor) -> Tensor:
            return self.attend(query, self.key(context), self.value(context), self.heads)

        def to_negative(rows: Tensor) -> Tensor:
            assert perturbed.negative is not None  # checked by the U-Net
            return attended(query[rows], perturbed.negative[rows])

        return self.out(perturbed.at("cross_attention", attended(query, context), to_negative))


class SpatialAttention(nn.Module):
    """Single-head self-attention over the positions of a feature map, as in the middle of the VAE.

    `attend` computes it and can be replaced, as `sdlab.cpu` does.
    """

    def __init__(self, width: int, groups: int) -> None:
        super().__init__()
        self.attend: Attend = attend
        self.norm = nn.GroupNorm(groups, width, eps=1e-6)
        self.query = nn.Conv2d(width, width, 1)
        self.key = nn.Conv2d(width, width, 1)
        self.value = nn.Conv2d(width, width, 1)
        self.out = zeroed(nn.Conv2d(width, width, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        h = self.norm(x)
        q, k, v = (f(h).flatten(2).transpose(1, 2) for f in (self.query, self.key, self.value))  # (B, HW, C)
        h = self.attend(q, k, v, heads=1).transpose(1, 2).reshape(x.shape)
        return x + self.out(h)


class FeedForward(nn.Module):
    """GEGLU: out(value(x) · gelu(gate(x))), four times as wide inside (Shazeer 2020, arXiv:2002.05202, eq. 6)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.value_and_gate = nn.Linear(width, 2 * 4 * width)
        self.out = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        value, gate = self.value_and_gate(x).chunk(2, dim=-1)
        # gelu on strided memory is several times slower than making a contiguous copy first.
        return self.out(value * F.gelu(gate.contiguous()))


class TransformerBlock(nn.Module):
    """Pre-norm self-attention, cross-attention to the context and feed-forward, each with a residual."""

    def __init__(self, width: int, heads: int, context_width: int) -> None:
        super().__init__()
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(width) for _ in range(3))
        self.self_attention = Attention(width, heads)
        self.cross_attention = Attention(width, heads, context_width)
        self.feed_forward = FeedForward(width)

    def forward(self, x: Tensor, context: Tensor, perturbed: Perturbed = UNPERTURBED) -> Tensor:
        """x (B, T, C), context (B, S, C_ctx) -> (B, T, C)."""
        x = perturbed.at("tokens", x)
        x = x + self.self_attention(self.norm1(x), perturbed=perturbed)
        x = x + self.cross_attention(self.norm2(x), context, perturbed=perturbed)
        return x + self.feed_forward(self.norm3(x))


class SpatialTransformer(nn.Module):
    """A transformer block over the positions of a feature map, with a residual."""

    def __init__(self, width: int, heads: int, context_width: int, groups: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, width, eps=1e-6)
        self.proj_in = nn.Conv2d(width, width, 1)
        self.block = TransformerBlock(width, heads, context_width)
        self.proj_out = zeroed(nn.Conv2d(width, width, 1))

    def forward(self, x: Tensor, context: Tensor, perturbed: Perturbed = UNPERTURBED) -> Tensor:
        """x (B, C, H, W), context (B, S, C_ctx) -> (B, C, H, W)."""
        h = self.proj_in(self.norm(x)).flatten(2).transpose(1, 2)  # (B, HW, C)
        h = self.block(h, context, perturbed).transpose(1, 2).reshape(x.shape)
        return x + perturbed.at("update", self.proj_out(h))
