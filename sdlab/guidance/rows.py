"""Rows of batches: some images of a tensor, and tensors put together from the rows of several."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from math import nan
from typing import TypeVar

from torch import Tensor

_Key = TypeVar("_Key", bound=Hashable)


def take(values: Tensor, rows: list[int]) -> Tensor:
    """The given rows, in ascending order. All rows are returned without a copy."""
    return values if len(rows) == values.shape[0] else values[rows]


def joined(parts: Sequence[tuple[list[int], Tensor]], images: int) -> Tensor:
    """Parts with their row indices, as one tensor (images, …). Other rows are NaN."""
    if len(parts[0][0]) == images:
        return parts[0][1]
    whole = parts[0][1].new_full((images, *parts[0][1].shape[1:]), nan)
    for rows, part in parts:
        whole[rows] = part
    return whole


def groups(keys: Iterable[_Key]) -> dict[_Key, list[int]]:
    """The indices at which each key occurs."""
    found: dict[_Key, list[int]] = {}
    for i, key in enumerate(keys):
        found.setdefault(key, []).append(i)
    return found


def column(values: Sequence[float], like: Tensor) -> Tensor:
    """One value per image in the shape (B, 1, …) that broadcasts against `like`."""
    return like.new_tensor(values).view(-1, *[1] * (like.dim() - 1))
