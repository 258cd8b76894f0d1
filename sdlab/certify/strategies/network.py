"""A small U-Net with random weights, on which every strategy can run whatever it asks of the network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from zlib import crc32

import torch
from torch import Tensor

import samplers
from sdlab import guidance
from sdlab.certify.problems import use_grid
from sdlab.denoiser import NetworkDenoiser
from sdlab.guidance import Guided, Query, State, Strategy
from sdlab.guidance.base import COND, Level, queries_of
from sdlab.guidance.needs import needed
from sdlab.guidance.space import to_space
from sdlab.model.config import SCENES
from sdlab.model.diffusion import Unet
from sdlab.model.parametrisation import Eps

IMAGES = 8
SIGMAS = use_grid(3)
_CONFIG = replace(SCENES.unet, width=8, residual_blocks=1, heads=2, groups=4, context_width=12)
_SIDE, _TOKENS = 8, 3


def run(strategy: Strategy, images: Sequence[int] = range(IMAGES), counted: Rows | None = None) -> Tensor:
    """The pictures (B, 4, 8, 8) of these images, sampled with Heun's method. `counted` counts network passes."""
    return sampled(guided(strategy, images, counted), images)


def guided(strategy: Strategy, images: Sequence[int], counted: Rows | None = None) -> Guided:
    """The denoiser of one run."""
    queries = needed(strategy, SIGMAS)
    model: Callable[..., Tensor] = _model(frozenset(q.network for q in queries if q.network is not None))
    if counted is not None:
        model = counted.watch(model)
    names = dict.fromkeys(["cond", "uncond", *(q.context for q in queries), *(q.negative for q in queries)])
    return Guided(strategy, model, {name: _contexts(name)[list(images)] for name in names}, images, _encoded)


def sampled(denoise: Guided, images: Sequence[int]) -> Tensor:
    """One run from the noise of these images."""
    noise = samplers.seeded(images)
    x = SIGMAS[0] * noise(torch.empty(len(images), _CONFIG.latent_channels, _SIDE, _SIDE, dtype=torch.float64))
    return samplers.run(samplers.make("heun"), denoise, x, SIGMAS)


@cache
def plain() -> Tensor:
    """The pictures of the plain conditional model."""
    return run(guidance.make("none"))


@dataclass
class Rows:
    """Counts the rows that reach the networks."""

    count: int = 0

    def watch(self, model: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """The model, counted."""

        def watched(x: Tensor, *arguments: object, **options: object) -> Tensor:
            self.count += len(x)
            return model(x, *arguments, **options)

        return watched


@dataclass
class Recorded:
    """A strategy whose calls are recorded, each with the plain prediction D(c).

    `calls` has the queries of the strategy, and the predictions of ε by query, D(c)'s among them.
    """

    strategy: Strategy
    calls: list[tuple[tuple[Query, ...], dict[Query, Tensor]]] = field(default_factory=list)
    states: int = 0  # tensors of the state, at most

    def queries(self, sigma: Level) -> tuple[Query, ...]:
        """Those of the strategy, and D(c)."""
        return self.queries_given(sigma, None)

    def queries_given(self, sigma: Level, state: State) -> tuple[Query, ...]:
        """Those of the strategy, and D(c)."""
        return tuple(dict.fromkeys((*queries_of(self.strategy, sigma, state), COND)))

    def combine(self, predictions: tuple[Tensor, ...], x: Tensor, sigma: Level, state: State) -> tuple[Tensor, State]:
        """What the strategy makes of its predictions."""
        first = None if state is None else tuple(rows[0] for rows in state)
        queries = queries_of(self.strategy, sigma, first)
        noises = [to_space("eps", one, x, sigma) for one in predictions]
        self.calls.append((queries, dict(zip(dict.fromkeys((*queries, COND)), noises, strict=True))))
        x0, state = self.strategy.combine(predictions[: len(queries)], x, sigma, state)
        self.states = max(self.states, len(state or ()))
        return x0, state


@cache
def _model(others: frozenset[str]) -> NetworkDenoiser:
    further = {name: _network(name) for name in others}
    return NetworkDenoiser(_network(""), samplers.discrete_levels(), Eps(), further)


@cache
def _network(name: str) -> Unet:
    """A U-Net in float64, away from its zero initialisation. The global generator keeps its state."""
    with torch.random.fork_rng():
        torch.manual_seed(crc32(name.encode()))
        unet = Unet(_CONFIG).double()
        for p in unet.parameters():
            p.data += 0.1 * torch.randn_like(p)
    return unet.eval().requires_grad_(False)


def _encoded(prompts: Sequence[str]) -> Tensor:
    """The contexts of further prompts."""
    return torch.cat([_contexts(f"prompt {prompt}")[:1] for prompt in prompts])


@cache
def _contexts(name: str) -> Tensor:
    """The contexts of all images under this name."""
    generator = torch.Generator().manual_seed(crc32(name.encode()))
    return torch.randn(IMAGES, _TOKENS, _CONFIG.context_width, generator=generator, dtype=torch.float64)
