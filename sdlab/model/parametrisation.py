"""Parametrisations: what a denoising network receives and predicts.

In the σ clock x = x₀ + σ ε. A network F receives c_in x and is trained to return

    F* = a x₀ + b ε

where c_in, a and b depend on σ. Since ε = (x − x₀)/σ, its prediction is an estimate of the data,

    x̂₀ = (b x − σ F) / (b − σ a)        and        |F − F*|² = ((b − σ a)/σ)² |x̂₀ − x₀|²

Training and sampling both use these objects, so they cannot disagree.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from sdlab.model.config import ModelConfig
from sdlab.model.noise_schedule import EdmLevels

Value = float | Tensor  # one noise level for a batch, or one per image in a shape that broadcasts with the latents


class Parametrisation(ABC):
    """The input scale c_in(σ) and the target F* = a(σ) x₀ + b(σ) ε of a network."""

    @abstractmethod
    def scale(self, sigma: Value) -> Value:
        """c_in: the factor on x in the network's input."""

    @abstractmethod
    def target(self, sigma: Value) -> tuple[Value, Value]:
        """(a, b): the factors of x₀ and ε in the target."""

    def denoised(self, x: Tensor, sigma: Value, predicted: Tensor) -> Tensor:
        """x̂₀ of the network's prediction for x (B, …) at level σ."""
        a, b = self.target(sigma)
        return (b * x - sigma * predicted) * (1 / (b - sigma * a))

    def predicted(self, x: Tensor, sigma: Value, x0: Tensor) -> Tensor:
        """The prediction with this x̂₀, the inverse of `denoised`."""
        a, b = self.target(sigma)
        return (b * x - (b - sigma * a) * x0) * (1 / sigma)

    def error_ratio(self, sigma: Value) -> Value:
        """|F − F*|² / |x̂₀ − x₀|², the weight of the error of x̂₀ in an unweighted loss."""
        a, b = self.target(sigma)
        return ((b - sigma * a) / sigma) ** 2


def _unit(sigma: Value) -> Value:
    """α = 1/√(1+σ²), which brings x to unit variance for data of unit variance."""
    return (1 + sigma**2) ** -0.5


class Eps(Parametrisation):
    """The noise ε (Ho et al. 2020, arXiv:2006.11239, eq. 14)."""

    def scale(self, sigma: Value) -> Value:
        """α."""
        return _unit(sigma)

    def target(self, sigma: Value) -> tuple[Value, Value]:
        """F* = ε."""
        return 0.0, 1.0


class V(Parametrisation):
    """v = α ε − α σ x₀ (Salimans & Ho 2022, arXiv:2202.00512, appendix D)."""

    def scale(self, sigma: Value) -> Value:
        """α."""
        return _unit(sigma)

    def target(self, sigma: Value) -> tuple[Value, Value]:
        """F* = α ε − α σ x₀."""
        alpha = _unit(sigma)
        return -sigma * alpha, alpha


class X0(Parametrisation):
    """The data x₀ (Salimans & Ho 2022, arXiv:2202.00512, section 4)."""

    def scale(self, sigma: Value) -> Value:
        """α."""
        return _unit(sigma)

    def target(self, sigma: Value) -> tuple[Value, Value]:
        """F* = x₀."""
        return 1.0, 0.0


class Flow(Parametrisation):
    """The velocity ε − x₀ of x_t = (1−t) x₀ + t ε, with σ = t/(1−t).

    (Lipman et al. 2022, arXiv:2210.02747, eq. 23; Liu et al. 2022, arXiv:2209.03003, eq. 1)
    """

    def scale(self, sigma: Value) -> Value:
        """1 − t, so that the input is x_t."""
        return 1 / (1 + sigma)

    def target(self, sigma: Value) -> tuple[Value, Value]:
        """F* = ε − x₀."""
        return -1.0, 1.0


@dataclass(frozen=True)
class Edm(Parametrisation):
    """The preconditioned network of Karras et al. (2022, arXiv:2206.00364, table 1).

        x̂₀ = c_skip x + c_out F,  c_skip = s²/r²,  c_out = σ s/r,  c_in = 1/r,  r² = σ² + s²

    for data of standard deviation s = `sigma_data`. For s = 1 this is v-prediction with the opposite sign.
    """

    sigma_data: float = 1.0

    def scale(self, sigma: Value) -> Value:
        """1/r."""
        return (sigma**2 + self.sigma_data**2) ** -0.5

    def target(self, sigma: Value) -> tuple[Value, Value]:
        """F* = (x₀ − c_skip x)/c_out = (σ/s x₀ − s ε)/r."""
        scale = self.scale(sigma)
        return sigma / self.sigma_data * scale, -self.sigma_data * scale


def _edm(config: ModelConfig) -> Edm:
    assert isinstance(config.levels, EdmLevels)  # checked by ModelConfig
    return Edm(config.levels.sigma_data)


PARAMETRISATIONS: Mapping[str, Callable[[ModelConfig], Parametrisation]] = {
    "edm": _edm,
    "eps": lambda config: Eps(),
    "flow": lambda config: Flow(),
    "v": lambda config: V(),
    "x0": lambda config: X0(),
}


def parametrisation(config: ModelConfig) -> Parametrisation:
    """The parametrisation of a model's U-Net, `config.prediction`."""
    return PARAMETRISATIONS[config.prediction](config)
