"""Skip-layer guidance, also known as spatiotemporal skip guidance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sdlab.guidance.base import Query
from sdlab.guidance.contrast import Contrast
from sdlab.model.perturbation import Perturbation, Point
from sdlab.model.place import Place


@dataclass(frozen=True)
class SkippedTransformer(Perturbation):
    """A transformer that is skipped. Its feature map passes unchanged."""

    point: ClassVar[Point] = "update"

    def change(self, state: Tensor, other: Tensor, place: Place) -> Tensor:
        """No update."""
        return torch.zeros_like(state)


@dataclass(frozen=True)
class SkipLayer(Contrast):
    """Skip-layer guidance: away from the prediction without the transformers `layers`, D(c) + scale (D(c) − D′(c)).

    This is STG with a residual skip. Its attention skip is `pag`. `cfg` adds classifier-free guidance, and 1 is without
    (Hyung et al. 2024, arXiv:2411.18664, sec. 3).

    Raises:
        ValueError: `scale` or `cfg` is below 0, or `layers` is empty.
    """

    scale: float = 2.8
    layers: tuple[str, ...] = ("auto",)

    def worse(self, sigma: float) -> Query:
        """The conditional prediction without these transformers."""
        return Query("cond", SkippedTransformer(self.layers))
