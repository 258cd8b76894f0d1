"""The interface between the runner of a sweep and the bench: a cell in, its result out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from sdlab.sweep.cell import Cell


@dataclass(frozen=True)
class CellResult:
    """Everything that is measured of a cell of N images."""

    metrics: dict[str, float]
    stderr: dict[str, float]  # standard errors, of the metrics that have one
    per_image: dict[
        str, NDArray[np.floating]
    ]  # (N,) in the order of the seeds, of the metrics that are means over images
    network_passes: float  # per image
    seconds_per_image: float
    ms_per_pass: float
    network_share: float  # of the whole time of the cell, in [0, 1]
    thumbnails: NDArray[np.uint8]  # (K, H, W, 3), the pictures of `Bench.prompts`


class CellFailed(Exception):
    """A cell without values, because of a NaN for instance. The sweep goes on.

    The message is the reason in one line. `trace` is the traceback if code failed, otherwise it is empty.
    """

    def __init__(self, reason: str, trace: str = "") -> None:
        super().__init__(reason)
        self.trace = trace


class Bench(Protocol):
    """A loaded model with everything that measures it."""

    @property
    def prompts(self) -> Sequence[str]:
        """The prompts of the thumbnails, K of them."""
        ...

    @property
    def inputs(self) -> NDArray[np.uint8] | None:
        """The input pictures (K, H, W, 3) of the thumbnails, for image-to-image."""
        ...

    def real(self) -> dict[str, tuple[float, float]]:
        """The value and standard error of each metric on as many real pictures, where there are any."""
        ...

    def run(self, cell: Cell, on_progress: Callable[[float], None]) -> CellResult:
        """Measure a cell, calling `on_progress` with the finished share in [0, 1].

        Raises:
            CellFailed: this cell has no values; others may.
        """
        ...
