"""The times of a cell: those of the network, the sampler, the decoder and the metrics, each on its own."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Annotated

import numpy as np
from pydantic import Field

Amount = Annotated[float, Field(ge=0, le=1e12, allow_inf_nan=False)]
PARTS = ("network", "sampler", "decode")
_FEWEST = 3  # repetitions whose quartiles say something


@dataclass(frozen=True)
class Times:
    """Seconds per image, with one value per repetition: a batch of the cell, or a round in which all cells are timed.

    `passes` are the network passes per image of each repetition. `rounds` is the time at which the rounds began, in
    ISO 8601, and empty for the batches of the cell itself. Times of equal `rounds` were taken in turn.

    Raises:
        ValueError: the parts have different numbers of repetitions.
    """

    network: tuple[Amount, ...] = ()
    sampler: tuple[Amount, ...] = ()  # between the calls of the network
    decode: tuple[Amount, ...] = ()
    passes: tuple[Amount, ...] = ()
    metrics: Amount | None = None  # once, over all images
    rounds: str = ""

    def __post_init__(self) -> None:
        if len({len(self.network), len(self.sampler), len(self.decode), len(self.passes)}) > 1:
            raise ValueError("the parts have different numbers of repetitions")

    @property
    def whole(self) -> tuple[float, ...]:
        """The seconds per image of each repetition. Metrics are not part of them."""
        return tuple(map(sum, zip(self.network, self.sampler, self.decode, strict=True)))

    @property
    def seconds(self) -> float:
        """Their median, NaN without repetitions."""
        return median(self.whole) if self.whole else math.nan

    @property
    def quartiles(self) -> tuple[float, float] | None:
        """The first and the third quartile of the seconds per image; None for too few repetitions."""
        if len(self.whole) < _FEWEST:
            return None
        low, high = np.quantile(self.whole, (0.25, 0.75))
        return float(low), float(high)

    @property
    def ms_per_pass(self) -> float:
        """The median milliseconds of a network pass of one image, NaN without passes."""
        each = [1000 * spent / count for spent, count in zip(self.network, self.passes, strict=True) if count]
        return median(each) if each else math.nan

    @property
    def of_parts(self) -> dict[str, float]:
        """The median of each part and the metrics, in seconds per image. Empty without repetitions."""
        if not self.whole:
            return {}
        return {**{name: median(getattr(self, name)) for name in PARTS}, "metrics": self.metrics or 0.0}

    @property
    def network_share(self) -> float:
        """The share of the network in the time of all parts, in [0, 1]; NaN without repetitions."""
        whole = sum(self.of_parts.values())
        return self.of_parts["network"] / whole if whole else math.nan


def repeated(parts: Iterable[Times], metrics: float | None = None, rounds: str = "") -> Times:
    """The repetitions of several times as one."""
    some = list(parts)
    columns = {name: tuple(value for one in some for value in getattr(one, name)) for name in (*PARTS, "passes")}
    return Times(**columns, metrics=metrics, rounds=rounds)


def of_batches(batches: Sequence[tuple[int, Times]], metrics: float) -> Times:
    """The times of a cell from those of its batches, each with its number of images.

    Only full batches count, since a small one takes longer per image. The first is a warm-up and is left out, unless it
    is the only one.
    """
    full = max((size for size, _ in batches), default=0)
    counted = [times for size, times in batches if size == full]
    return repeated(counted[1:] or counted, metrics)
