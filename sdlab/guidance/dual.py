"""Dual guidance by a text and a picture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from sdlab.guidance.base import COND, IMAGE, UNCOND, Level, Query, State
from sdlab.guidance.scale import check_scale


@dataclass(frozen=True)
class Dual:
    """Dual guidance: classifier-free guidance for models with two conditions, a picture and a text.

    With D(i, c) the prediction with both, D(i) the one with the picture alone and D(∅) the one without condition:
        D(∅) + image (D(i) − D(∅)) + scale (D(i, c) − D(i))

    `image` at 1 leaves D(∅) out. At equal scales this is classifier-free guidance. The models that come with sdlab have
    no picture as a condition. Image-to-image is not one, since it only starts from a picture. A custom model has one
    if it has `without_text`. (Brooks et al. 2022, arXiv:2211.09800, eq. 3)

    Raises:
        ValueError: `scale` or `image` is below 0 or above 1000.
    """

    neutral: ClassVar[Mapping[str, Any]] = {"scale": 1.0, "image": 1.0}
    space: ClassVar[str] = "any"

    scale: float = 7.5
    image: float = 1.5

    def __post_init__(self) -> None:
        check_scale("Dual.scale", self.scale)
        check_scale("Dual.image", self.image)

    def queries(self, sigma: Level) -> tuple[Query, ...]:
        """The predictions that have a weight."""
        weights = {UNCOND: 1 - self.image, IMAGE: self.image - self.scale, COND: self.scale}
        return tuple(query for query, weight in weights.items() if weight != 0)

    def combine(self, predictions: tuple[Tensor, ...], x: Tensor, sigma: Level, state: State) -> tuple[Tensor, State]:
        """The weighted sum."""
        found = dict(zip(self.queries(sigma), predictions, strict=True))
        x0 = start = predictions[0]
        if UNCOND in found and IMAGE in found:
            x0 = x0 + self.image * (found[IMAGE] - start)
            start = found[IMAGE]
        if COND in found:
            x0 = x0 + self.scale * (found[COND] - start)
        return x0, state
