"""Each image as one vector: inner products and norms, shaped to broadcast against the images."""

from __future__ import annotations

from math import sqrt

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
    values = a.flatten(1)
    deviations = values - values.mean(1, keepdim=True)
    return norm(deviations.view_as(a)) / sqrt(values.shape[1])


def ratio(a: Tensor, b: Tensor) -> Tensor:
    """a/b, and 1 where b is 0."""
    return (a / b).masked_fill_(b == 0, 1)


def column(values: Tensor, like: Tensor) -> Tensor:
    """One value per image (B,) in the shape (B, 1, …) that broadcasts against `like`."""
    return values.view(-1, *[1] * (like.dim() - 1))
