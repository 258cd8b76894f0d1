"""Denoisers D(x; σ, c) made from networks that are trained on timesteps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

import samplers
from sdlab.model.config import ModelConfig

Sigma = float | Tensor  # one level for the batch, or (B,)


class Model(Protocol):
    """D(x; σ, c), a denoiser with a context.

    If a guidance strategy queries a perturbed network, the call also has the keyword `perturbation`, a tuple with one
    name or None per row of x. No network supports perturbations yet.
    """

    def __call__(self, x: Tensor, sigma: Sigma, context: Tensor, /) -> Tensor:
        """x (B, …) at level σ, context (B, …) -> x̂₀ in the shape and dtype of x."""
        ...


Watch = Callable[[Model], Model]  # wraps a network for one run, for example to count its passes


def unwatched(model: Model) -> Model:
    """The model itself."""
    return model


@dataclass(frozen=True)
class NetworkDenoiser:
    """D(x; σ, c) of a variance-preserving network that was trained on discrete timesteps.

    With α = 1/√(1+σ²), the network receives x_unit = α x at timestep t(σ), which may be fractional, and returns

        ε:  D = x − σ ε                     (Ho et al. 2020, arXiv:2006.11239, eq. 11)
        v:  D = α (x_unit − σ v)            (Salimans & Ho 2022, arXiv:2202.00512, app. D, with σ_vp = α σ)

    The network may run in another dtype. D has the dtype of x.
    """

    network: Callable[[Tensor, Tensor, Tensor], Tensor]  # (x_unit, t (B,), context) -> prediction
    levels: samplers.DiscreteLevels
    prediction: Literal["eps", "v"] = "eps"

    @classmethod
    def of(cls, network: Callable[[Tensor, Tensor, Tensor], Tensor], config: ModelConfig) -> NetworkDenoiser:
        """The denoiser with the noise schedule and the prediction type of a model's configuration."""
        return cls(network, config.noise_schedule(), config.prediction)

    def __call__(self, x: Tensor, sigma: Sigma, context: Tensor) -> Tensor:
        """x (B, C, H, W) at level σ, a float or (B,); context (B, L, width) -> x̂₀ in the shape and dtype of x."""
        if isinstance(sigma, Tensor):
            steps = [self.levels.t(s) for s in sigma.tolist()]
            sigma = sigma.to(x).view(-1, *[1] * (x.dim() - 1))
        else:
            steps = [self.levels.t(sigma)] * len(x)
        alpha = (1 + sigma**2) ** -0.5
        unit = alpha * x
        t = torch.tensor(steps, dtype=torch.float32, device=x.device)
        prediction = self.network(unit, t, context).to(x.dtype)
        if self.prediction == "eps":
            return x - sigma * prediction
        return alpha * (unit - sigma * prediction)
