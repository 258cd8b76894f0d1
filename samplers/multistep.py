"""Multistep samplers: the predictions that they remember, and lower orders in the last steps."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from samplers.adams import Node
from samplers.base import Sampler
from samplers.checks import flag

FEW = 15  # runs of fewer steps are short


class History(NamedTuple):
    """The last predictions, newest first, and the levels where the last step and the one before it start, if limited.

    A step that starts at `limited[i]` may use i + 1 predictions.
    """

    nodes: tuple[Node, ...] = ()
    limited: tuple[float, ...] = ()

    def look_back(self, now: Node, most: int) -> tuple[tuple[Node, ...], History]:
        """The predictions that a step from `now` uses, at most `most`, and the history for the next step."""
        limit = self.limited.index(now.sigma) + 1 if now.sigma in self.limited else most
        nodes = (now, *self.nodes)[: min(limit, most)]
        return nodes, self._replace(nodes=nodes[: most - 1])


@dataclass(frozen=True)
class Multistep(Sampler):
    """A sampler that looks back, with `lower_order_final` as in diffusers' DPMSolverMultistepScheduler.

    With the option, in a run of fewer than 15 steps, the last step uses one prediction and the one before it two at
    most. Longer runs do not change, and so the order of convergence does not either.

    Raises:
        ValueError: lower_order_final is not True or False.
    """

    lower_order_final: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        flag(f"{type(self).__name__}.lower_order_final", self.lower_order_final)

    def prepare(self, sigmas: tuple[float, ...]) -> History:
        """An empty history that knows the last two steps of a short run."""
        short = self.lower_order_final and len(sigmas) - 1 < FEW
        return History(limited=sigmas[-2:-4:-1] if short else ())
