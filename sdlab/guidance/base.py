"""The guidance protocol: the predictions a strategy needs at a noise level, and their combination."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, ClassVar, NamedTuple, Protocol, Self, TypeGuard, runtime_checkable

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


class Found(NamedTuple):
    """An earlier prediction at the same level, for an `Input`."""

    x0: Tensor  # (B, …)
    attention: Tensor | None  # (B, H, W), see `AttentionMaps.mean`; None without `layers`


@dataclass(frozen=True)
class Input(ABC):
    """Another input x′ of the network than x, made from an earlier prediction at the same level.

    `Guided` makes the prediction `of` first, which is a pass of its own unless the strategy queries it too.
    """

    of: Query
    layers: tuple[str, ...] = ()  # names of `UnetConfig.layers`, whose self-attention is needed

    @abstractmethod
    def at(self, found: Found, x: Tensor, sigma: Level) -> Tensor:
        """x′ in the shape of x (B, …). A pure function, whose result for an image depends only on its rows."""


@dataclass(frozen=True)
class Loss(ABC):
    """A loss ℓ(x̂₀) that moves a prediction by its gradient through the network: x̂₀ − σ² ∇ₓ ℓ(x̂₀(x)).

    This is the prediction of the score with −∇ₓ ℓ added. `Guided` runs the network with gradients for such a query. The
    pass backwards is not counted as a network pass. It takes about twice as long as the pass forwards.
    """

    @abstractmethod
    def of(self, x0: Tensor) -> Tensor:
        """x̂₀ (B, …) -> the loss of each image, (B,). A differentiable function."""


@dataclass(frozen=True)
class Query:
    """One prediction of the model: with which context, noise on it, perturbation of the network, network, noise label.

    A `prompt` is the text of a further prompt, whose context takes the place of `context`.

    A perturbation of cross-attention contrasts the context with the context `negative`. A `label` is the noise level
    that the network is given, if it is not that of x. The noise-predicting network then gets the same picture with the
    label of another level: x̂₀ = x − σ ε(x/√(1 + σ²), label). An `input` takes the place of x in the same way:
    x̂₀ = x − σ ε(x′). A `loss` moves the prediction by its gradient.

    Raises:
        ValueError: there is a loss together with an input or another network.
    """

    context: str = "cond"
    perturbation: Perturbation | None = None
    negative: str = "uncond"
    network: str | None = None  # "early" is the U-Net in unet_early.safetensors of the model folder
    label: float | None = None
    noise: ContextNoise | None = None
    prompt: str | None = None
    input: Input | None = None
    loss: Loss | None = None

    def __hash__(self) -> int:  # queries are keys in every call, and hashing all fields would take longer than guiding
        return self._hash

    @cached_property
    def _hash(self) -> int:
        return hash(tuple(getattr(self, one.name) for one in fields(self)))

    def __post_init__(self) -> None:
        if self.loss is not None and (self.input is not None or self.network is not None):
            raise ValueError("a query with a loss can have neither an input nor another network")


COND, UNCOND, IMAGE = Query("cond"), Query("uncond"), Query("image")  # IMAGE: a picture as condition, without the text


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


@runtime_checkable
class Limited(Strategy, Protocol):
    """A strategy that acts in an interval of noise levels only."""

    @property
    def limits(self) -> tuple[float, float]:
        """The interval (low, high)."""
        ...

    def acts(self, sigma: Level, /) -> bool:
        """Whether it acts at this level. Elsewhere it is the plain conditional model."""
        ...


@runtime_checkable
class Exemplified(Strategy, Protocol):
    """A strategy whose certificate is measured with other options than its defaults, which leave out a part of it."""

    example: ClassVar[Mapping[str, Any]]


def is_adaptive(strategy: Strategy) -> TypeGuard[Adaptive]:
    """Whether the queries of `strategy` depend on its state."""
    return issubclass(type(strategy), Adaptive)  # isinstance of a protocol is 50 times slower


def with_sources(queries: Iterable[Query]) -> tuple[Query, ...]:
    """The queries, each once and after those that its input is made from."""
    found: dict[Query, None] = {}
    for query in queries:
        sources = [query]
        while (other := sources[-1].input) is not None:
            sources.append(other.of)
        found.update(dict.fromkeys(reversed(sources)))
    return tuple(found)


def queries_of(strategy: Strategy, sigma: Level, state: State) -> tuple[Query, ...]:
    """The queries of any strategy for one image."""
    return strategy.queries_given(sigma, state) if is_adaptive(strategy) else strategy.queries(sigma)
