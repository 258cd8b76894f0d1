"""Universal guidance by a differentiable loss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from samplers.checks import look_up
from sdlab.guidance.base import COND, Loss, Query
from sdlab.guidance.contrast import Contrast

PROJECTIONS: dict[str, Callable[[Tensor], Tensor]] = {  # (B, C, …) -> the nearest state of a kind
    "grey": lambda x: x.mean(1, keepdim=True).expand_as(x),
    "mirror": lambda x: (x + x.flip(-1)) / 2,
}


@dataclass(frozen=True)
class Distance(Loss):
    """Half the squared distance of x̂₀ to the nearest state of a kind, ½ |x̂₀ − P x̂₀|² with P in `PROJECTIONS`."""

    kind: str

    def of(self, x0: Tensor) -> Tensor:
        """The loss of each image."""
        return 0.5 * (x0 - PROJECTIONS[self.kind](x0)).flatten(1).square().sum(1)


@dataclass(frozen=True)
class Universal(Contrast):
    """Universal guidance: classifier-free guidance moved by the gradient of a loss of x̂₀ through the network.

    With ℓ the loss of the conditional prediction D(c) as a function of x:
        D(∅) + cfg (D(c) − D(∅)) − scale σ² ∇ₓ ℓ(D(c))

    In ε this adds scale √(1 − ᾱ) times the gradient in the paper's x, as in its forward guidance. The loss is half the
    squared distance of x̂₀ to the nearest state of the kind `towards`: "mirror", its own mirror image, or "grey", with
    equal channels, both of latents where the model has latents. A strategy with another loss is a subclass with `loss`.
    A step takes the time of about three network passes, as the pass backwards is not counted. Scale 0 has no effect.
    (Bansal et al. 2023, arXiv:2302.07121, sec. 3)

    Raises:
        ValueError: `scale` or `cfg` is below 0 or above 1000, or `towards` is unknown.
    """

    scale: float = 1.0
    towards: str = "mirror"

    def __post_init__(self) -> None:
        look_up("Universal.towards", self.towards, PROJECTIONS)
        super().__post_init__()

    def loss(self) -> Loss:
        """The loss of x̂₀."""
        return Distance(self.towards)

    def better(self, sigma: float) -> Query:
        """The conditional prediction, moved by the gradient of its loss."""
        return Query("cond", loss=self.loss())

    def worse(self, sigma: float) -> Query:
        """The conditional prediction."""
        return COND
