"""What runs a cell, and what comes of it. A sweep knows models through this face alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from sdlab.sweep.cell import Cell


@dataclass(frozen=True)
class CellResult:
    """All that is measured of a cell of N images."""

    metrics: dict[str, float]
    stderr: dict[str, float]  # standard errors, of the metrics that have one
    per_image: dict[
        str, NDArray[np.floating]
    ]  # (N,) in the order of the seeds, of the metrics that are means over images
    network_passes: float  # an image
    seconds_per_image: float
    ms_per_pass: float
    network_share: float  # of the whole time of the cell, in [0, 1]
    thumbnails: NDArray[np.uint8]  # (K, H, W, 3), the pictures of `Bench.prompts`


class CellFailed(Exception):
    """A cell that cannot give numbers (a NaN, for one); the message is its reason. The sweep goes on."""


class Bench(Protocol):
    """A loaded model with all that measures it."""

    @property
    def prompts(self) -> Sequence[str]:
        """The prompts of the thumbnails, K of them."""
        ...

    @property
    def inputs(self) -> NDArray[np.uint8] | None:
        """The pictures (K, H, W, 3) that those of the thumbnails are made from, where image-to-image makes them."""
        ...

    def real(self) -> dict[str, tuple[float, float]]:
        """The value and standard error of each metric on as many real pictures, where there are any: what to aim at."""
        ...

    def run(self, cell: Cell, on_progress: Callable[[float], None]) -> CellResult:
        """Measure a cell, calling `on_progress` with the finished share in [0, 1].

        Raises:
            CellFailed: this cell gives no numbers; others may.
        """
        ...
