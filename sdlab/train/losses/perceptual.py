"""Perceptual distance: pictures compared by the features of a frozen network."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from sdlab.model.clip import ClipVision
from sdlab.train.losses.clip_size import at_size_of

Features = Callable[[Tensor], Sequence[Tensor]]


class ClipFeatures(nn.Module):
    """The hidden states of CLIP's vision transformer, frozen: pictures (B, 3, H, W) in [−1, 1] -> (B, N, C) per layer.

    Pictures are resized to the size that the network was trained on.
    """

    def __init__(self, vision: ClipVision) -> None:
        super().__init__()
        self.vision = vision.requires_grad_(False)

    def forward(self, images: Tensor) -> list[Tensor]:
        """The states after each layer."""
        return self.vision.states(at_size_of(self.vision, images))


def perceptual_distance(features: Features, a: Tensor, b: Tensor) -> Tensor:
    """The distance per picture, (B,): 1 − cosine of the features, averaged over positions and layers.

    This is the distance of Zhang et al. (2018, arXiv:1801.03924, eq. 1) without learnt weights, since the squared
    distance of unit vectors is 2 − 2 cosine.
    """
    layers = zip(features(a), features(b), strict=True)
    per_layer = [(1 - F.cosine_similarity(x.float(), y.float(), dim=-1)).mean(1) for x, y in layers]
    return sum(per_layer[1:], per_layer[0]) / len(per_layer)
