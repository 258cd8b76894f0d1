"""Rounds: a sweep that stops early adds images to the cells whose place is not known yet."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from sdlab.sweep.plan import Plan
from sdlab.sweep.results import CellResult
from sdlab.sweep.store import Row, Store
from sdlab.sweep.times import repeated

Unsettled = Callable[[Plan, Sequence[Row], int], Sequence[int]]
"""The indices of the rows that need more images, judged by the first so many images of each."""


def rounds(
    plan: Plan, keys: Sequence[str], cells: Sequence[int], store: Store, unsettled: Unsettled
) -> Iterator[tuple[int, Sequence[int]]]:
    """The images per cell and the cells of each round, which is run before the next one is asked for.

    Every decision follows from the first images of the cells alone. A sweep that was interrupted therefore decides as
    before, whichever cells have had more images since. Without `plan.until` there is one round of all cells.
    """
    for images in plan.looks:
        yield images, cells
        if images == plan.images:
            return
        rows = {row.key: row for row in store.rows([keys[i] for i in cells]) if row.ok and row.images >= images}
        cells = [i for i in cells if keys[i] in rows]
        cells = [cells[k] for k in unsettled(plan, [rows[keys[i]] for i in cells], images)]


def images_of(plan: Plan, keys: Sequence[str], store: Store) -> Mapping[str, int]:
    """The number of images that each cell with values has."""
    if plan.until is None:
        return dict.fromkeys(store.finished(), plan.images)
    return {row.key: row.images for row in store.rows(keys) if row.ok}


def joined(row: Row, more: CellResult) -> CellResult:
    """The values of a row and of the images after it as those of one cell."""
    per_image = {name: np.concatenate([row.per_image[name], values]) for name, values in more.per_image.items()}
    there = row.images
    share = there / max(map(len, per_image.values()))
    costs = [(there, row.times), (max(map(len, more.per_image.values())), more.times)]
    metrics = [(count, times.metrics) for count, times in costs if times.metrics is not None]
    measured = (
        sum(count * seconds for count, seconds in metrics) / sum(count for count, _ in metrics) if metrics else None
    )
    return CellResult(
        metrics={name: float(values.mean(dtype=np.float64)) for name, values in per_image.items()},
        stderr={name: _error(values) for name, values in per_image.items()},
        per_image=per_image,
        replicates={},
        network_passes=share * row.network_passes + (1 - share) * more.network_passes,
        times=row.times if row.times.rounds else repeated((row.times, more.times), measured),
        thumbnails=more.thumbnails,
        peak_memory=max(row.peak_memory, more.peak_memory),
        error_path=row.error_path,
    )


def _error(values: NDArray[np.floating]) -> float:
    return float(values.std(ddof=1, dtype=np.float64)) / math.sqrt(len(values))
