"""Multistep samplers: the predictions that they remember, and lower orders in the last steps."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

from samplers.adams import Node
from samplers.base import Sampler
from samplers.checks import flag


class History(NamedTuple):
    """The last predictions, newest first, and the levels where the last steps start, last step first, if limited.

    A step that starts at `limited[i]` may use i + 1 predictions.
    """

    nodes: tuple[Node, ...] = ()
    limited: tuple[float, ...] = ()

    def limit(self, sigma: float, most: int) -> int:
        """How many predictions a step from `sigma` may use, at most `most`."""
        return min(self.limited.index(sigma) + 1, most) if sigma in self.limited else most

    def used(self, most: int) -> tuple[Node, ...]:
        """The predictions that the step from the newest one uses, at most `most`."""
        return self.nodes[: self.limit(self.nodes[0].sigma, most)]

    def look_back(self, now: Node, most: int) -> tuple[tuple[Node, ...], History]:
        """The predictions that a step from `now` uses, at most `most`, and the history for the next step."""
        nodes = self._replace(nodes=(now, *self.nodes)).used(most)
        return nodes, self._replace(nodes=nodes[: most - 1])


@dataclass(frozen=True)
class Multistep(Sampler):
    """A sampler that looks back, with `lower_order_final` as in diffusers' DPMSolverMultistepScheduler.

    With the option, in a run of fewer than 15 steps, the last step uses one prediction and the one before it two at
    most. Longer runs do not change, and so the order of convergence does not either. A sampler may set other numbers:
    `_few` steps, from which on a run does not change, and `_last` steps that are limited.

    Raises:
        ValueError: lower_order_final is not True or False.
    """

    _few: ClassVar[float] = 15
    _last: ClassVar[int] = 2
    lower_order_final: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        flag(f"{type(self).__name__}.lower_order_final", self.lower_order_final)

    def prepare(self, sigmas: tuple[float, ...]) -> Any:
        """An empty history, with the start levels of the last steps if the run is short."""
        short = self.lower_order_final and len(sigmas) - 1 < self._few
        return History(limited=sigmas[-2 : -2 - self._last : -1] if short else ())
