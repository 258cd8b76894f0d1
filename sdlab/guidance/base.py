"""The guidance protocol: which predictions a strategy asks for at a noise level, and how it combines them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

State = tuple[Tensor, ...] | None  # one row per image in each tensor; None at the start of a run


@dataclass(frozen=True)
class Query:
    """One prediction of the model: with a named context, and with a named perturbation of its network or none."""

    context: str = "cond"
    perturbation: str | None = None


COND, UNCOND = Query("cond"), Query("uncond")


class Strategy(Protocol):
    """A guidance strategy: a frozen dataclass of its options, the same for every image and every run.

    It never sees the model. `Guided` asks the queries in one batch, counts them as network passes, and holds the state
    of the run.
    """

    def queries(self, sigma: float, /) -> tuple[Query, ...]:
        """The predictions wanted at level σ, at least one and none twice. Their number is the network passes."""
        ...

    def combine(
        self, predictions: tuple[Tensor, ...], x: Tensor, sigma: float, state: State, /
    ) -> tuple[Tensor, State]:
        """The guided x̂₀ in the shape of x (B, …), and the state for the next call.

        Pure: each image's result depends on its own rows alone, and nothing is written to.

        Args:
            predictions: x̂₀ of each query, in the order of `queries(sigma)`, each (B, …).
            state: None at the first call of a run, then what the last call returned.
        """
        ...
