"""The denoiser protocols, and two wrappers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeGuard, runtime_checkable

from torch import Tensor


class Denoiser(Protocol):
    """D(x, σ) -> x̂₀, the posterior mean of the data given x = x₀ + σ ε."""

    def __call__(self, x: Tensor, sigma: float, /) -> Tensor:
        """x of shape (B, …) -> x̂₀ of the same shape, dtype and device. The sampler may keep it but must not modify it.

        `sigma` is a float above 0, or a tensor of shape (B,) if each image has a different level.
        """
        ...


@runtime_checkable
class GuidedDenoiser(Denoiser, Protocol):
    """A denoiser that can also return its unconditional prediction, which CFG++ needs."""

    def with_uncond(self, x: Tensor, sigma: float, /) -> tuple[Tensor, Tensor]:
        """The guided x̂₀ and the unconditional one, at the cost of one guided call."""
        ...


@runtime_checkable
class SteppedDenoiser(Denoiser, Protocol):
    """A denoiser that is notified of each step, for guidance that is decided once per step."""

    def begin_step(self, sigma: float, /) -> None:
        """`samplers.run` calls this before each step, with the level at which the step begins."""
        ...


@runtime_checkable
class HeldDenoiser(Denoiser, Protocol):
    """A denoiser that can leave out images, for samplers whose images take different numbers of calls."""

    def hold(self, images: Sequence[bool], /) -> None:
        """Which images wait in further calls: they cost nothing and keep their state. The sampler ignores their x̂₀."""
        ...


def is_held(denoise: Denoiser) -> TypeGuard[HeldDenoiser]:
    """Whether `denoise` has `hold`."""
    return issubclass(type(denoise), HeldDenoiser)


def is_stepped(denoise: Denoiser) -> TypeGuard[SteppedDenoiser]:
    """Whether `denoise` has `begin_step`."""
    return issubclass(type(denoise), SteppedDenoiser)


def begin_step(denoise: Denoiser, sigma: float) -> None:
    """Notify `denoise` of a step that begins at `sigma`, if it has `begin_step`."""
    if is_stepped(denoise):
        denoise.begin_step(sigma)


def is_guided(denoise: Denoiser) -> TypeGuard[GuidedDenoiser]:
    """Whether `denoise` has `with_uncond`."""
    return issubclass(type(denoise), GuidedDenoiser)  # isinstance of a protocol is 50 times slower


@dataclass(frozen=True)
class Unguided:
    """A denoiser whose guided and unconditional predictions are the same, for samplers that need both."""

    denoise: Callable[..., Tensor]

    def __call__(self, x: Tensor, sigma: float) -> Tensor:
        """D(x, σ)."""
        return self.denoise(x, sigma)

    def with_uncond(self, x: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
        """D(x, σ), twice."""
        x0 = self.denoise(x, sigma)
        return x0, x0


@dataclass
class Counted:
    """An unguided denoiser that counts its calls."""

    denoise: Callable[..., Tensor]
    calls: int = field(default=0, init=False)

    def __call__(self, x: Tensor, sigma: float) -> Tensor:
        """D(x, σ)."""
        self.calls += 1
        return self.denoise(x, sigma)

    def with_uncond(self, x: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
        """D(x, σ), twice; one call."""
        x0 = self(x, sigma)
        return x0, x0
