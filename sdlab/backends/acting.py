"""Work with the guided denoiser of a backend that is not sampling, such as a round trip."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

import samplers


@dataclass(frozen=True, eq=False)
class Acting(samplers.Sampler):
    """A sampler whose step returns what `act` makes of the denoiser and x (B, …), in the shape of x.

    As a sampler it runs on every backend, with any guidance, on a grid of two levels.
    """

    act: Callable[[samplers.Denoiser, Tensor], Tensor]

    def step(
        self,
        denoise: samplers.Denoiser,
        x: Tensor,
        sigma: float,
        sigma_next: float,
        memory: None,
        noise: samplers.Noise,
    ) -> tuple[Tensor, None]:
        """What `act` returns. No memory."""
        return self.act(denoise, x), None


def round_trip(
    sampler: samplers.Sampler, samples: Tensor, sigmas: Sequence[float], keeps_memory: bool = True
) -> Acting:
    """Takes `samples` (B, …) up `sigmas` and down again: with the memory of the inversion, or with the noise alone."""

    def act(denoise: samplers.Denoiser, x: Tensor) -> Tensor:
        noise, memory = samplers.invert(sampler, denoise, samples.to(x), sigmas)
        return samplers.run(sampler, denoise, noise, sigmas, memory=memory if keeps_memory else None)

    return Acting(act)
