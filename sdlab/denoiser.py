"""Denoisers D(x; σ, c) made from networks that are trained on timesteps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

import samplers
from samplers.checks import look_up
from sdlab.model.attention_maps import AttentionMaps
from sdlab.model.config import ModelConfig
from sdlab.model.parametrisation import Parametrisation, parametrisation
from sdlab.model.perturbation import Perturbation

Sigma = float | Tensor  # one level for the batch, or (B,)


class Model(Protocol):
    """D(x; σ, c), a denoiser with a context.

    If a guidance strategy queries a perturbed network, the call also has the keyword `perturbation`, a tuple with a
    `Perturbation` or None per row of x. If one of them acts on cross-attention, it has the keyword `negative`, the
    contexts to contrast with, in the shape of `context`. `network` names another network of the model. `attention` is
    an `AttentionMaps`, in which the network records its self-attention. If x requires gradients, the call has them.
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
    """D(x; σ, c) of a network that is trained on timesteps.

    The network receives c_in x at timestep t(σ), which may be fractional, and returns what its parametrisation says.
    The network may run in another dtype. D has the dtype of x.
    """

    network: Callable[..., Tensor]  # (c_in x, t (B,), context) -> prediction; with `perturbation` if perturbed
    levels: samplers.TimedLevels
    parametrisation: Parametrisation
    others: Mapping[str, Callable[..., Tensor]] = field(default_factory=dict)  # further networks of the model
    plain: Callable[..., Tensor] | None = None  # the network for gradients, if `network` has none

    @classmethod
    def of(
        cls,
        network: Callable[..., Tensor],
        config: ModelConfig,
        others: Mapping[str, Callable[..., Tensor]] | None = None,
        plain: Callable[..., Tensor] | None = None,
    ) -> NetworkDenoiser:
        """The denoiser with the noise schedule and the parametrisation of a model's configuration."""
        return cls(network, config.noise_schedule(), parametrisation(config), others or {}, plain)

    def __call__(
        self,
        x: Tensor,
        sigma: Sigma,
        context: Tensor,
        perturbation: Sequence[Perturbation | None] = (),
        negative: Tensor | None = None,
        network: str | None = None,
        attention: AttentionMaps | None = None,
    ) -> Tensor:
        """x (B, C, H, W) at level σ, a float or (B,); context (B, L, width) -> x̂₀ in the shape and dtype of x.

        `perturbation`, `negative` and `attention` are those of the U-Net's call. `network` is one of `others`.

        Raises:
            ValueError: there is no network of that name, or the perturbation does not fit it.
        """
        own = self.plain if x.requires_grad and self.plain is not None else self.network
        chosen = own if network is None else look_up("network", network, self.others)
        if isinstance(sigma, Tensor):
            steps = [self.levels.t(s) for s in sigma.tolist()]
            sigma = sigma.to(x).view(-1, *[1] * (x.dim() - 1))
        else:
            steps = [self.levels.t(sigma)] * len(x)
        t = torch.tensor(steps, dtype=torch.float32, device=x.device)
        options: dict[str, Any] = {"perturbation": perturbation, "negative": negative} if any(perturbation) else {}
        if attention is not None:
            options["attention"] = attention
        prediction = chosen(self.parametrisation.scale(sigma) * x, t, context, **options)
        return self.parametrisation.denoised(x, sigma, prediction.to(x.dtype))
