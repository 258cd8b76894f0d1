"""Each image as one vector: inner products and norms, shaped to broadcast against the images."""

from __future__ import annotations

import torch
from torch import Tensor


def dot(a: Tensor, b: Tensor) -> Tensor:
    """The inner product per image of (B, …) tensors, (B, 1, …)."""
    return total(a * b)


def total(a: Tensor) -> Tensor:
    """The sum per image, (B, 1, …)."""
    return a.sum(_axes(a), keepdim=True)


def norm(a: Tensor) -> Tensor:
    """The Euclidean norm per image, (B, 1, …)."""
    return torch.linalg.vector_norm(a, dim=_axes(a), keepdim=True)


def deviation(a: Tensor) -> Tensor:
    """The norm per image of the deviations from its mean, (B, 1, …): √n times the standard deviation of n values."""
    return norm(torch.sub(a, total(a), alpha=len(a) / a.numel()))


def ratio(a: Tensor, b: Tensor) -> Tensor:
    """a/b, and 1 where b is 0."""
    return (a / b).masked_fill_(b == 0, 1)


def column(values: Tensor, like: Tensor) -> Tensor:
    """One value per image (B,) in the shape (B, 1, …) that broadcasts against `like`."""
    return values.view(-1, *[1] * (like.dim() - 1))


def _axes(a: Tensor) -> tuple[int, ...]:
    """All but that of the images."""
    return tuple(range(1, a.dim()))
