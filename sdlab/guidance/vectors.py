"""Each image as one vector: inner products and norms, shaped to broadcast against the images."""

from __future__ import annotations

import torch
from torch import Tensor


def dot(a: Tensor, b: Tensor) -> Tensor:
    """The inner product per image of (B, …) tensors, (B, 1, …)."""
    return column((a * b).flatten(1).sum(1), a)


def norm(a: Tensor) -> Tensor:
    """The Euclidean norm per image, (B, 1, …)."""
    return column(torch.linalg.vector_norm(a.flatten(1), dim=1), a)


def std(a: Tensor) -> Tensor:
    """The standard deviation of all values of an image, (B, 1, …)."""
    return column(a.flatten(1).std(dim=1, correction=0), a)


def ratio(a: Tensor, b: Tensor) -> Tensor:
    """a/b, and 1 where b is 0."""
    return torch.where(b == 0, torch.ones_like(a), a / b)


def column(values: Tensor, like: Tensor) -> Tensor:
    """One value per image (B,) in the shape (B, 1, …) that broadcasts against `like`."""
    return values.view(-1, *[1] * (like.dim() - 1))
