"""Two-step samplers that go both ways: from two states, and the prediction at one of them, to the state on its other
side."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from samplers.adams import Node
from samplers.base import Denoiser, Noise, Sampler
from samplers.denoiser import begin_step


class Bidirectional(Sampler):
    """A sampler whose steps are linear in the states on both sides, so that each can be solved for either of them.

    With e(s) = x + (s − σ) ε the Euler step from x at σ to any level s, ⁺ for the next level and ′ for the previous:
        x⁺ = e(σ⁺) + w (x′ − e(σ′))
        x′ = e(σ′) + (x⁺ − e(σ⁺))/w

    Both are one rule, with the states exchanged and 1/w for w. Subclasses choose w. Without a second state, a step is
    an Euler step. (Wang et al. 2024, arXiv:2410.07273, 2-step BELM)
    """

    invertible: ClassVar[bool] = True

    @abstractmethod
    def weight(self, before: float, sigma: float, after: float) -> float:
        """w for the step from x at `sigma` to `after` with the other state at `before`; of the way back it is 1/w."""
        ...

    def step(
        self, denoise: Denoiser, x: Tensor, sigma: float, sigma_next: float, memory: Node | None, noise: Noise
    ) -> tuple[Tensor, Node]:
        """x at `sigma` -> x at `sigma_next`. Memory: the previous state, or the next one if an inversion found it."""
        return self._across(denoise, x, sigma, sigma_next, memory)

    def step_up(
        self, denoise: Denoiser, x: Tensor, sigma: float, sigma_next: float, memory: Node | None
    ) -> tuple[Tensor, Node]:
        """x at `sigma` -> x at `sigma_next` above it, the inverse of the step that begins at `sigma`."""
        begin_step(denoise, sigma)
        return self._across(denoise, x, sigma, sigma_next, memory)

    def _across(
        self, denoise: Denoiser, x: Tensor, sigma: float, sigma_next: float, memory: Node | None
    ) -> tuple[Tensor, Node]:
        here = Node(sigma, x)
        if memory is not None and memory.sigma == sigma_next:
            return memory.value, here
        x0 = denoise(x, sigma)
        after = torch.lerp(x0, x, sigma_next / sigma)
        if memory is not None:
            missed = memory.value - torch.lerp(x0, x, memory.sigma / sigma)
            after.add_(missed, alpha=self.weight(memory.sigma, sigma, sigma_next))
        return after, here
