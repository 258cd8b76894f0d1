"""The interface between the runner of a sweep and the bench, which turns a cell into a result."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from sdlab.sweep.cell import Cell
from sdlab.sweep.previews import Previews
from sdlab.sweep.times import Times


def no_path() -> NDArray[np.floating]:
    """A path without levels, (2, 0)."""
    return np.empty((2, 0))


@dataclass(frozen=True)
class CellResult:
    """All measurements of a cell with N images."""

    metrics: dict[str, float]
    stderr: dict[str, float]  # standard errors, for metrics that have one
    per_image: dict[str, NDArray[np.floating]]  # (N,) in the order of the seeds, for metrics that are means over images
    replicates: dict[str, NDArray[np.floating]]  # (2, U) of the jackknife, for metrics of the whole set
    network_passes: float  # per image
    times: Times
    thumbnails: NDArray[np.uint8]  # (K, H, W, 3), the pictures of `Bench.prompts`
    peak_memory: float = math.nan  # bytes, if known
    error_path: NDArray[np.floating] = field(
        default_factory=no_path
    )  # (2, S), levels and the distance to the flow there
    previews: Previews = field(default_factory=Previews)  # of the first image


class CellFailed(Exception):
    """A cell has no values, for example because of a NaN. The sweep continues.

    The message is the reason in one line. `trace` is the traceback if code failed, otherwise it is empty.
    """

    def __init__(self, reason: str, trace: str = "") -> None:
        super().__init__(reason)
        self.trace = trace


class Bench(Protocol):
    """A loaded model and its metrics."""

    @property
    def prompts(self) -> Sequence[str]:
        """The prompts of the thumbnails, K of them."""
        ...

    @property
    def inputs(self) -> NDArray[np.uint8] | None:
        """The input pictures (K, H, W, 3) of the thumbnails, for image-to-image."""
        ...

    def real(self) -> dict[str, tuple[float, float]]:
        """The value and standard error of each metric on the same number of real pictures; empty without any."""
        ...

    def run(self, cell: Cell, on_progress: Callable[[float], None], images: range) -> CellResult:
        """Measure these images of a cell, calling `on_progress` with the finished share in [0, 1].

        Images that do not begin with the first one are added to those of an earlier call, and have no thumbnails.

        Raises:
            CellFailed: this cell has no values. Other cells are not affected.
        """
        ...

    def time(self, cell: Cell, on_progress: Callable[[float], None]) -> Times:
        """Draw the first batch of a cell once more, and measure only the time. One repetition, without the metrics.

        Raises:
            CellFailed: as for `run`.
        """
        ...
