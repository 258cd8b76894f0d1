"""The guidance protocol: the predictions a strategy needs at a noise level, and their combination."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, Self, TypeGuard, runtime_checkable

from torch import Tensor

from sdlab.model.perturbation import Perturbation

State = tuple[Tensor, ...] | None  # one row per image in each tensor; None at the start of a run


class Level(float):
    """The noise level σ of a denoiser call: a float that also has the level at which its step begins.

    A sampler with several calls per step, such as Heun's method, makes some of them at other levels than `step`.
    """

    step: float

    def __new__(cls, sigma: float, step: float | None = None) -> Self:
        """Without `step`, the step begins at `sigma`."""
        level = super().__new__(cls, sigma)
        level.step = float(sigma if step is None else step)
        return level


@dataclass(frozen=True)
class ContextNoise:
    """Noise on a context y: y′ = √keep y + size √(1 − keep) n, with n standard normal, fresh at every call.

    Then `rescale` blends y′ with the y′ that has the mean and the standard deviation of y, both over all values of an
    image's context. `keep` 0 makes the context independent of the prompt.
    """

    keep: float
    size: float = 1.0
    rescale: float = 1.0


@dataclass(frozen=True)
class Query:
    """One prediction of the model: with which context, noise on it, perturbation of the network, network, noise label.

    A perturbation of cross-attention contrasts the context with the context `negative`. A `label` is the noise level
    that the network is told, if it is not that of x. The noise-predicting network then gets the same picture with the
    label of another level: x̂₀ = x − σ ε(x/√(1 + σ²), label).
    """

    context: str = "cond"
    perturbation: Perturbation | None = None
    negative: str = "uncond"
    network: str | None = None  # "early" is the U-Net in unet_early.safetensors of the model folder
    label: float | None = None
    noise: ContextNoise | None = None


COND, UNCOND = Query("cond"), Query("uncond")


class Strategy(Protocol):
    """A guidance strategy: a frozen dataclass of its options, the same for every image and every run.

    It has no access to the model. `Guided` runs the queries in one batch, counts them as network passes, and keeps the
    state of the run.
    """

    def queries(self, sigma: Level, /) -> tuple[Query, ...]:
        """The predictions needed at level σ, at least one and without duplicates. Each costs one network pass."""
        ...

    def combine(
        self, predictions: tuple[Tensor, ...], x: Tensor, sigma: Level, state: State, /
    ) -> tuple[Tensor, State]:
        """The guided x̂₀ in the shape of x (B, …), and the state for the next call.

        This must be a pure function. The result for an image depends only on its rows, and inputs are not modified.

        Args:
            predictions: x̂₀ of each query, in the order of `queries(sigma)`, each (B, …).
            state: None at the first call of a run, then the state returned by the previous call.
        """
        ...


@runtime_checkable
class Adaptive(Strategy, Protocol):
    """A strategy whose queries also depend on the state, for example because it drops a prediction at some point."""

    def queries_given(self, sigma: Level, state: State, /) -> tuple[Query, ...]:
        """In place of `queries`: the predictions for one image, whose state has no batch axis."""
        ...


@runtime_checkable
class Stated(Strategy, Protocol):
    """A strategy that states what its certificate checks (`sdlab certify guidance`)."""

    neutral: ClassVar[Mapping[str, Any]]
    """The options with which it is the plain conditional model."""

    @property
    def space(self) -> str:
        """The space of predictions in which it is defined; "any" if the picture is the same in all of them."""
        ...


def is_adaptive(strategy: Strategy) -> TypeGuard[Adaptive]:
    """Whether the queries of `strategy` depend on its state."""
    return issubclass(type(strategy), Adaptive)  # isinstance of a protocol is 50 times slower


def queries_of(strategy: Strategy, sigma: Level, state: State) -> tuple[Query, ...]:
    """The queries of any strategy for one image."""
    return strategy.queries_given(sigma, state) if is_adaptive(strategy) else strategy.queries(sigma)
