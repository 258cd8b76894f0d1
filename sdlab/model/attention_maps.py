"""Attention maps of the U-Net: how much attention each position receives, recorded during a pass."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

from sdlab.model.config import Size
from sdlab.model.place import Place


class AttentionMaps:
    """The self-attention that each position receives in some transformers, an output of one pass of the U-Net.

        maps = AttentionMaps(["auto"])
        unet(x, t, context, attention=maps)
        maps.mean(["auto"], (64, 64))                 # (B, 64, 64)

    The value of a position is its column of the attention matrix, summed over all queries and averaged over the heads.
    It is 1 if all positions receive the same attention, and 1 on average.
    """

    def __init__(self, layers: Iterable[str]) -> None:
        """`layers` are names of `UnetConfig.layers`."""
        self.layers = frozenset(layers)
        self._found = list[tuple[tuple[str, ...], Tensor]]()

    def record(self, place: Place, query: Tensor, key: Tensor, heads: int) -> None:
        """Record the self-attention of a transformer, if it is one of those wanted. Queries and keys are (B, T, C)."""
        if not self.layers.isdisjoint(place.names):
            self._found.append((place.names, received(query, key, heads).unflatten(1, place.size)))

    def uniform(self, images: Tensor) -> None:
        """Record attention that is the same everywhere, for a stand-in of a network that has no attention."""
        self._found.append((tuple(self.layers), images.new_ones(len(images), 1, 1)))

    def mean(self, layers: Collection[str], size: Size) -> Tensor:
        """The mean map (B, H, W) of these transformers, each enlarged to (H, W) by nearest neighbours.

        Raises:
            ValueError: none of them was recorded.
        """
        found = [map for names, map in self._found if not set(layers).isdisjoint(names)]
        if not found:
            raise ValueError(f"the model recorded no attention of the layers {', '.join(layers)}")
        return torch.stack([F.interpolate(map[:, None], size)[:, 0] for map in found]).mean(0)


def received(query: Tensor, key: Tensor, heads: int) -> Tensor:
    """The attention that each token receives from all queries, (B, T), in float32 or better.

    It is computed one image at a time, since a map of T tokens has T² values per head.
    """
    dtype, rows = torch.promote_types(query.dtype, torch.float32), []
    for pair in zip(query, key, strict=True):
        q, k = (one.unflatten(1, (heads, -1)).transpose(0, 1) for one in pair)  # (heads, T, d)
        weights = (q @ k.mT * q.shape[-1] ** -0.5).softmax(-1, dtype=dtype)
        rows.append(weights.mean(0).sum(0))
    return torch.stack(rows)
