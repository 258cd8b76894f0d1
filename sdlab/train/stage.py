"""The interface between the training loop and its stages."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from sdlab.train.average import Decay


@dataclass(frozen=True)
class Trained:
    """A module that is trained, with its optimizer and the moving averages of its weights.

    `optimizer` builds the optimizer; its learning rates are the peaks of the schedule. `averages` maps the name of each
    average to its decay. The first average is in the module when `Stage.finish` is called. Without averages the module
    keeps its last weights. `stored` is the part that is written to the model folder and that the key `start`
    initialises, by default the whole module.
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
    """The interface of a stage."""

    trained: Mapping[str, Trained]
    """The trained modules by name. The key `start` initialises the first."""

    draw: Callable[[torch.Generator], Any]
    """The data of one batch, on the CPU. All randomness comes from the generator.

    Worker processes may call it, so it is pickled and holds no network.
    """

    def losses(self, step: int, batch: Any) -> Iterator[Loss]:
        """The losses of a step on a batch from `draw`, in order.

        After each loss, only its module takes an optimizer step, and then the next loss is computed. A discriminator's
        loss therefore uses the updated generator.
        """
        ...

    def preview(self) -> Tensor | None:
        """Pictures that show what the stage has learnt, (rows, columns, 3, H, W) in [−1, 1], or None if it has none.

        The averages are in the modules. Pictures of different steps use the same data and noise.
        """
        return None

    def finish(self) -> dict[str, float]:
        """Measure the trained weights, write them to the model folder, and return the measurements."""
        ...
