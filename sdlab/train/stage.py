"""The interface between the training loop and its stages."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn

from sdlab.train.average import Decay


@dataclass(frozen=True)
class Trained:
    """A module that is trained, with its optimizer and the moving averages of its weights.

    `optimizer` makes the optimizer, whose learning rates are the peaks of the schedule. `averages` maps the name of
    each average to its decay. The first average is the one that `Stage.finish` finds in the module; without averages
    the module keeps its last weights. `stored` is the part whose weights go into the model folder, and so the part that
    the key `start` fills; by default it is the whole module.
    """

    module: nn.Module
    optimizer: Callable[[nn.Module], torch.optim.Optimizer]
    averages: Mapping[str, Decay] = field(default_factory=dict)
    stored: nn.Module | None = None


@dataclass(frozen=True)
class Loss:
    """A scalar that one of the trained modules minimises at this step, and parts of it to log."""

    name: str  # of the module in `Stage.trained`
    value: Tensor
    parts: Mapping[str, Tensor] = field(default_factory=dict)


class Stage(Protocol):
    """What the loop needs from a stage."""

    @property
    def trained(self) -> Mapping[str, Trained]:
        """What is trained, by name. The key `start` fills the first."""
        ...

    def losses(self, step: int, generator: torch.Generator) -> Iterator[Loss]:
        """The losses of a step, in order.

        After each loss its module, and no other, takes an optimizer step; then the next loss is computed. So a
        discriminator's loss sees the generator that has just been updated. All randomness comes from `generator`.
        """
        ...

    def finish(self) -> dict[str, float]:
        """Measure the trained weights, write them to the model folder, and return what was measured."""
        ...
