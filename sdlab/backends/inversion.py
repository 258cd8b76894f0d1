"""Inversion on a backend: work with its guided denoiser that is not sampling, and what cannot be inverted."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

import samplers
from sdlab.denoiser import Sigma
from sdlab.guidance import Guided, Strategy
from sdlab.guidance.stand_in import stand_in


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


def obstacles(
    sampler: samplers.Sampler, sigmas: Sequence[float], strategy: Strategy
) -> Iterator[tuple[Literal["sampler", "grid", "guidance"], str]]:
    """Why these do not go together with inversion, each with the choice that stands in its way."""
    if not samplers.is_invertible(sampler):
        yield "sampler", "cannot be inverted; use bdia, belm, edict, or ddim with eta 0 and without clip"
    if sigmas[-1] == 0:
        yield "grid", 'ends at 0, where no noise is left to invert; add ending = "stop_at_sigma_min"'
    if _has_state(strategy, sigmas):
        yield "guidance", "cannot be inverted, because its predictions depend on the steps before"


def _has_state(strategy: Strategy, sigmas: Sequence[float]) -> bool:
    """Whether the strategy keeps a state, from a run on a scalar."""

    def unit_gaussian(x: Tensor, sigma: Sigma) -> Tensor:
        return x / (1 + torch.as_tensor(sigma).view(-1, 1, 1, 1) ** 2)

    contexts = dict.fromkeys(("cond", "uncond", "image"), torch.ones(1, 1))
    model = stand_in(unit_gaussian)
    denoise = Guided(strategy, model, contexts, seeds=[0], encode=lambda prompts: torch.ones(len(prompts), 1))
    samplers.run(samplers.make("euler"), denoise, torch.ones(1, 1, 1, 1), sigmas)
    return denoise.has_state
