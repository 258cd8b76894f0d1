"""A guider for the modular pipelines of diffusers, made from any strategy that combines two predictions.

    pipe.update_components(scheduler=scheduler, guider=StrategyGuider(guidance.make("apg", scale=5.0), scheduler))

A modular pipeline runs its network once per batch of conditions that the guider prepares, and hands the predictions
back. Strategies combine estimates of x₀, for which the latents are read where they enter the network.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from diffusers.guiders.guider_utils import BaseGuidance, GuiderOutput
from torch import Tensor, nn

import samplers
from sdlab.adapters.diffusers import SamplerScheduler
from sdlab.denoiser import Sigma
from sdlab.guidance import Guided, Strategy
from sdlab.guidance.base import COND, UNCOND
from sdlab.guidance.needs import needed

_Untyped: Any = BaseGuidance  # the types of its methods are not those that pipelines use
_PLACES = {COND: 0, UNCOND: 1}  # of the conditions in the pairs that a pipeline gives
_NAMES = {COND: "pred_cond", UNCOND: "pred_uncond"}
_LEVELS = 100  # at which a strategy is asked for its predictions before a run


class StrategyGuider(_Untyped):  # type: ignore[misc]
    """A guider with the interface of diffusers. It shares the scheduler of the pipeline, which knows the levels."""

    _input_predictions: ClassVar[list[str]] = ["pred_cond", "pred_uncond"]

    def __init__(self, strategy: Strategy, scheduler: SamplerScheduler) -> None:
        """`scheduler` is that of the pipeline.

        Raises:
            ValueError: the strategy needs more than the conditional and the unconditional prediction.
        """
        super().__init__()
        self.register_to_config(strategy=repr(strategy))
        self.strategy, self.scheduler = strategy, scheduler
        every = needed(strategy, samplers.grid("karras", steps=_LEVELS, levels=scheduler.levels))
        if not every <= _PLACES.keys():
            raise ValueError(
                f"{type(strategy).__name__} needs more than the conditional and the unconditional prediction; "
                "sample the pipeline with sdlab.adapters.pipeline"
            )
        self._ever = tuple(query for query in _PLACES if query in every)
        self._asked, self._input = self._ever, torch.empty(0)
        self._found: dict[str, Tensor] = {}
        self._guided: Guided | None = None

    @property
    def num_conditions(self) -> int:
        """The number of predictions of the present network call; outside a call, of all that may be needed."""
        return len(self._asked) if self._enabled else 1

    @property
    def is_conditional(self) -> bool:
        """Whether the present batch has the condition."""
        return self._asked[max(0, self._count_prepared - 1)] == COND

    def prepare_inputs(self, data: Mapping[str, tuple[Tensor, Tensor] | Tensor]) -> list[Any]:
        """One batch of conditions for each prediction that an image needs at the present level."""
        if self._guided is None or not self.scheduler.begun:
            images = max(len(one[0]) for one in data.values() if isinstance(one, tuple) and one[0] is not None)
            rows = torch.stack([torch.arange(images), torch.zeros(images, dtype=torch.long)], dim=1)
            self._guided = Guided(self.strategy, self._stored, {"cond": rows, "uncond": rows + torch.tensor([0, 1])})
        level = self.scheduler.level
        self._guided.begin_step(level.step)
        wanted = {query for queries in self._guided.wanted(level) for query in queries}
        self._asked = tuple(query for query in _PLACES if query in wanted) if self._enabled else (COND,)
        return [self._prepare_batch(data, _PLACES[query], _NAMES[query]) for query in self._asked]

    def prepare_models(self, denoiser: nn.Module) -> None:
        """Read the latents where they enter the network."""
        super().prepare_models(denoiser)
        self._hook = denoiser.register_forward_pre_hook(self._read, with_kwargs=True)

    def cleanup_models(self, denoiser: nn.Module) -> None:
        """Stop reading."""
        self._hook.remove()

    def forward(self, **predicted: Tensor) -> GuiderOutput:
        """The guided prediction from those of the network, by name."""
        level, form = self.scheduler.level, self.scheduler.parametrisation
        x = self._input.float() / form.scale(level)
        self._found = {name: form.denoised(x, level, one.float()) for name, one in predicted.items()}
        assert self._guided is not None  # made by `prepare_inputs`
        x0 = self._guided(x, level) if self._enabled else self._found[_NAMES[COND]]
        self._asked, first = self._ever, next(iter(predicted.values()))
        pred = form.predicted(x, level, x0).to(first.dtype)
        return GuiderOutput(pred=pred, **{name: predicted.get(name) for name in _NAMES.values()})

    def _read(self, denoiser: nn.Module, given: tuple[Any, ...], named: Mapping[str, Any]) -> None:
        self._input = given[0] if given else named["hidden_states" if "hidden_states" in named else "sample"]

    def _stored(self, x: Tensor, sigma: Sigma, context: Tensor) -> Tensor:
        """The estimates that the pipeline's network has made, of the images and the conditions in the context."""
        names = self._input_predictions
        return torch.stack([self._found[names[place]][image] for image, place in context.tolist()])
