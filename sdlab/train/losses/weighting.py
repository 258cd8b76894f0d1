"""Weightings of the denoising loss by noise level.

Each is a weight w(SNR) of the squared error of x̂₀, with SNR = 1/σ². The loss is then the same for every
parametrisation: w |x̂₀ − x₀|². In terms of ε it is w/SNR |ε̂ − ε|², in terms of v it is w/(SNR+1) |v̂ − v|².
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal, Protocol

from pydantic import BaseModel, Field

from sdlab.system.limits import LARGEST
from sdlab.train.config import TABLE

if TYPE_CHECKING:
    from torch import Tensor


class Weighting(Protocol):
    """w(SNR)."""

    def __call__(self, snr: Tensor, /) -> Tensor:
        """Signal-to-noise ratios (B,) -> weights of |x̂₀ − x₀|², (B,)."""
        ...


class MinSnr(BaseModel):
    """`weighting.name = "min_snr"`: w = min(SNR, γ) (Hang et al. 2023, arXiv:2303.09556, section 3.4)."""

    model_config = TABLE

    name: Literal["min_snr"] = Field(description="the weighting")
    gamma: float = Field(5.0, gt=0, le=LARGEST, description="γ, the largest weight")

    def __call__(self, snr: Tensor) -> Tensor:
        """The weights."""
        return snr.clamp(max=self.gamma)


class SoftMinSnr(BaseModel):
    """`weighting.name = "soft_min_snr"`: w = SNR γ/(SNR + γ) (Crowson et al. 2024, arXiv:2401.11605)."""

    model_config = TABLE

    name: Literal["soft_min_snr"] = Field(description="the weighting")
    gamma: float = Field(4.0, gt=0, le=LARGEST, description="γ, the largest weight")

    def __call__(self, snr: Tensor) -> Tensor:
        """The weights."""
        return self.gamma / (1 + self.gamma / snr)


class P2(BaseModel):
    """`weighting.name = "p2"`: w = SNR/(k + SNR)^γ (Choi et al. 2022, arXiv:2204.00227)."""

    model_config = TABLE

    name: Literal["p2"] = Field(description="the weighting")
    k: float = Field(1.0, gt=0, le=LARGEST, description="k, the SNR below which the weight falls")
    gamma: float = Field(1.0, ge=0, le=10, description="γ, the power; 0 is the unweighted error of ε")

    def __call__(self, snr: Tensor) -> Tensor:
        """The weights."""
        return snr * (self.k + snr) ** -self.gamma


class EdmWeighting(BaseModel):
    """`weighting.name = "edm"`: w = λ(σ) = SNR + 1/σ_data² (Karras et al. 2022, arXiv:2206.00364, table 1)."""

    model_config = TABLE

    name: Literal["edm"] = Field(description="the weighting")
    sigma_data: float = Field(1.0, ge=1e-6, le=LARGEST, description="standard deviation of the latents")

    def __call__(self, snr: Tensor) -> Tensor:
        """The weights."""
        return snr + self.sigma_data**-2


AnyWeighting = MinSnr | SoftMinSnr | P2 | EdmWeighting
WEIGHTINGS: Mapping[str, type[BaseModel]] = {
    "min_snr": MinSnr,
    "soft_min_snr": SoftMinSnr,
    "p2": P2,
    "edm": EdmWeighting,
}
