"""The guidance protocol: the predictions a strategy needs at a noise level, and their combination."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from sdlab.model.perturbation import Perturbation

State = tuple[Tensor, ...] | None  # one row per image in each tensor; None at the start of a run


@dataclass(frozen=True)
class Query:
    """One prediction of the model, with a named context, and optionally a perturbation or another of its networks.

    A perturbation of cross-attention contrasts the context with the context `negative`.
    """

    context: str = "cond"
    perturbation: Perturbation | None = None
    negative: str = "uncond"
    network: str | None = None  # "early" is the network in unet_early.safetensors of the model folder


COND, UNCOND = Query("cond"), Query("uncond")


class Strategy(Protocol):
    """A guidance strategy: a frozen dataclass of its options, the same for every image and every run.

    It has no access to the model. `Guided` runs the queries in one batch, counts them as network passes, and keeps the
    state of the run.
    """

    def queries(self, sigma: float, /) -> tuple[Query, ...]:
        """The predictions needed at level σ, at least one and without duplicates. Each costs one network pass."""
        ...

    def combine(
        self, predictions: tuple[Tensor, ...], x: Tensor, sigma: float, state: State, /
    ) -> tuple[Tensor, State]:
        """The guided x̂₀ in the shape of x (B, …), and the state for the next call.

        This must be a pure function. The result for an image depends only on its rows, and inputs are not modified.

        Args:
            predictions: x̂₀ of each query, in the order of `queries(sigma)`, each (B, …).
            state: None at the first call of a run, then the state returned by the previous call.
        """
        ...
