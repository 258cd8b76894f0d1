"""Stand-ins for networks."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from sdlab.denoiser import Model, Sigma
from sdlab.model.attention_maps import AttentionMaps


def stand_in(denoise: Callable[[Tensor, Sigma], Tensor]) -> Model:
    """A model without a network that answers every query, to count passes or to try out a strategy.

    Each prediction is `denoise(x, sigma)`, whatever its context and its perturbation, and attention is uniform.
    """

    def model(x: Tensor, sigma: Sigma, context: Tensor, attention: AttentionMaps | None = None, **_: object) -> Tensor:
        if attention is not None:
            attention.uniform(x)
        return denoise(x, sigma)

    return model
