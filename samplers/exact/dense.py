"""States of a run at further noise levels, interpolated between those that it stops at."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from math import log, prod

from torch import Tensor

_NODES = 4  # of a cubic


class Dense:
    """The states of a run at levels that it passes: a cubic in log σ through the four nearest states, of fourth order.

    Nothing but the wanted states is kept. `add` is the `on_step` of `samplers.run`.

        dense = Dense(fine, wanted)
        samplers.run(sampler, denoise, x, fine, on_step=dense.add)
        dense.states[0.5]
    """

    def __init__(self, sigmas: Sequence[float], wanted: Iterable[float]) -> None:
        """`sigmas` is the grid of the run. `wanted` levels outside it, or inside a last step to 0, have no state."""
        self.states: dict[float, Tensor] = {}
        self._shares: dict[
            int, list[tuple[float, float]]
        ] = {}  # after each step: the levels it counts for, and weights
        ordered = [-one for one in sigmas]  # increasing
        last = len(sigmas) - 1 - (sigmas[-1] == 0)  # the last level that has a logarithm
        for level in dict.fromkeys(wanted):
            at = bisect_left(ordered, -level)
            if at < len(sigmas) and sigmas[at] == level:
                nodes = [at] if at else []
            elif level >= sigmas[0] or level <= sigmas[last]:
                nodes = []
            else:
                first = max(1, min(at - _NODES // 2, last - _NODES + 1))
                nodes = list(range(first, min(first + _NODES, last + 1)))
            for node, weight in _lagrange(nodes, sigmas, level):
                self._shares.setdefault(node - 1, []).append((level, weight))

    def add(self, i: int, x: Tensor) -> None:
        """The state after step i, in float64."""
        for level, weight in self._shares.get(i, ()):
            part = weight * x.double()
            self.states[level] = part if level not in self.states else self.states[level] + part


def _lagrange(nodes: Sequence[int], sigmas: Sequence[float], level: float) -> list[tuple[int, float]]:
    """The nodes with the weights of Lagrange's polynomial in log σ at a level."""
    if len(nodes) == 1:
        return [(nodes[0], 1.0)]
    places = {node: log(sigmas[node]) for node in nodes}
    return [
        (node, prod((log(level) - other) / (place - other) for k, other in places.items() if k != node))
        for node, place in places.items()
    ]
