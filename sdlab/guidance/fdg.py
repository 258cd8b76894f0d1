"""Frequency-decoupled guidance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from sdlab.guidance.base import COND, UNCOND, Level, Query, State
from sdlab.guidance.scale import check_scale


@dataclass(frozen=True)
class FrequencyDecoupled:
    """Frequency-decoupled guidance: classifier-free guidance with a scale for each band of spatial frequencies.

    With L_k the levels of a Laplacian pyramid from the highest band to the lowest, and w_k the `scales`:
        Σ_k up(L_k(D(∅)) + w_k L_k(D(c) − D(∅)))

    The pyramid is linear, so guiding x̂₀, ε or v gives the same picture, and equal scales are classifier-free guidance.
    A picture too small for all bands, or x without height and width, has the last scale in what is left. (Sadat et
    al. 2025, arXiv:2506.19713)

    Raises:
        ValueError: there are no scales, or one is below 0 or above 1000.
    """

    neutral: ClassVar[Mapping[str, Any]] = {"scales": (1.0, 1.0)}
    space: ClassVar[str] = "any"

    scales: Sequence[float] = (10.0, 5.0)

    def __post_init__(self) -> None:
        if not self.scales:
            raise ValueError("FrequencyDecoupled.scales must have a scale for each band, got none")
        for scale in self.scales:
            check_scale("FrequencyDecoupled.scales: each", scale)

    def queries(self, sigma: Level) -> tuple[Query, ...]:
        """One prediction if all scales are 1, otherwise both."""
        return (COND,) if all(scale == 1 for scale in self.scales) else (UNCOND, COND)

    def combine(self, predictions: tuple[Tensor, ...], x: Tensor, sigma: Level, state: State) -> tuple[Tensor, State]:
        """The guided x̂₀."""
        if len(predictions) == 1:
            return predictions[0], state
        uncond, cond = predictions
        return uncond + _weighted(cond - uncond, self.scales), state


def _weighted(change: Tensor, scales: Sequence[float]) -> Tensor:
    """The sum of the bands of `change`, each times its scale."""
    if len(scales) == 1 or change.dim() != 4 or min(change.shape[-2:]) < 2:
        return scales[-1] * change
    coarse = _down(change)
    return scales[0] * (change - _up(coarse, change)) + _up(_weighted(coarse, scales[1:]), change)


def _down(x: Tensor) -> Tensor:
    """(B, C, H, W) smoothed by the binomial filter 1 4 6 4 1, at every second pixel."""
    line = x.new_tensor([1.0, 4.0, 6.0, 4.0, 1.0]) / 16
    kernel = torch.outer(line, line).expand(x.shape[1], 1, 5, 5)
    return F.conv2d(F.pad(x, (2, 2, 2, 2), mode="replicate"), kernel, stride=2, groups=x.shape[1])


def _up(x: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(x, size=like.shape[-2:], mode="bilinear", align_corners=False)
