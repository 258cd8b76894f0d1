"""The affine blend of a conditional and an unconditional denoiser, with a weight that may depend on σ."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from sdlab.denoiser import Model, Sigma


class GuidedDenoiser(Protocol):
    """A denoiser that can also say what it would predict without the prompt."""

    def __call__(self, x: Tensor, sigma: Sigma, /) -> Tensor:
        """x (B, …) at level σ -> the guided x̂₀."""
        ...

    def with_uncond(self, x: Tensor, sigma: Sigma, /) -> tuple[Tensor, Tensor]:
        """The guided x̂₀ and the unconditional one."""
        ...


class Guidance(Protocol):
    """A rule that makes one denoiser of a model and two contexts: a frozen dataclass of its options."""

    def __call__(self, model: Model, cond: Tensor, uncond: Tensor, /) -> GuidedDenoiser:
        """`cond` and `uncond`, of a negative prompt or the empty one, have a row for each image: (B, …)."""
        ...

    def passes(self, sigma: float, /) -> int:
        """Network passes per image that one call at level σ costs."""
        ...


class Blend:
    """D(∅) + w(σ) (D(c) − D(∅)). Weights 0 and 1 need one prediction only, others take both from one batched call.

    The blend is affine with weights that sum to 1, so guiding x̂₀, ε or v gives the same picture.
    """

    def __init__(self, model: Model, cond: Tensor, uncond: Tensor, weight: Callable[[float], float]) -> None:
        self.model, self.weight = model, weight
        self.cond, self.uncond, self.both = cond, uncond, torch.cat([uncond, cond])

    def __call__(self, x: Tensor, sigma: Sigma) -> Tensor:
        """The guided x̂₀ in the shape of x."""
        weight = self._weight(x, sigma)
        if isinstance(weight, float) and weight in (0, 1):
            return self.model(x, sigma, self.cond if weight else self.uncond)
        return self._blend(x, sigma, weight)[0]

    def with_uncond(self, x: Tensor, sigma: Sigma) -> tuple[Tensor, Tensor]:
        """The guided x̂₀ and the unconditional one: two passes, or one at weight 0."""
        weight = self._weight(x, sigma)
        if isinstance(weight, float) and weight == 0:
            x0 = self.model(x, sigma, self.uncond)
            return x0, x0
        return self._blend(x, sigma, weight)

    def _blend(self, x: Tensor, sigma: Sigma, weight: float | Tensor) -> tuple[Tensor, Tensor]:
        twice = torch.cat([sigma, sigma]) if isinstance(sigma, Tensor) else sigma
        uncond, cond = self.model(torch.cat([x, x]), twice, self.both).chunk(2)
        return uncond + weight * (cond - uncond), uncond

    def _weight(self, x: Tensor, sigma: Sigma) -> float | Tensor:
        """w(σ), a float where all images agree, else (B, 1, …)."""
        if not isinstance(sigma, Tensor):
            return float(self.weight(sigma))
        weights = [float(self.weight(s)) for s in sigma.tolist()]
        if len(set(weights)) == 1:
            return weights[0]
        return x.new_tensor(weights).view(-1, *[1] * (x.dim() - 1))


def passes(weight: float) -> int:
    """Predictions that the blend needs at this weight."""
    return 1 if weight in (0, 1) else 2
