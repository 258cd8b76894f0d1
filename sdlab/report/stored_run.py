"""The data of a report, read from a store that may be damaged or untrusted."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from sdlab.metrics import METRICS
from sdlab.sweep.document import Extra
from sdlab.sweep.plan import Plan
from sdlab.sweep.previews import Previews
from sdlab.sweep.run import REAL, STORE, read_plan
from sdlab.sweep.store import Damaged, Row, Store
from sdlab.system.errors import UsageError

_REAL = TypeAdapter(dict[str, tuple[float, float]])
_LARGEST = 1e100  # of a value of an image


@dataclass(frozen=True)
class StoredRun:
    """The plan, rows and pictures of a run. What cannot be read is left out and named in `notes`."""

    store: Store  # open while pictures are read
    plan: Plan  # with the metrics that are known here
    rows: list[Row]  # in the order of the plan; a damaged one is a failed cell
    real: dict[str, tuple[float, float]]  # value and standard error of each metric on real pictures, if known
    notes: dict[str, None] = field(default_factory=dict)  # remarks in order, each once

    def pictures(self, row: Row) -> tuple[list[str], NDArray[np.uint8]] | None:
        """The prompts (K) and pictures (K, H, W, 3) of a row, if it has any."""
        try:
            return self.store.thumbnails(row.key) if row.ok else None
        except Damaged as error:
            self.notes[f"the pictures of {row.cell.label} cannot be read: {error}"] = None
            return None

    def previews(self, row: Row) -> Previews:
        """The previews of a row, empty if it has none."""
        try:
            return self.store.previews(row.key) if row.ok else Previews()
        except Damaged as error:
            self.notes[f"the previews of {row.cell.label} cannot be read: {error}"] = None
            return Previews()

    def inputs(self) -> NDArray[np.uint8] | None:
        """The input pictures (K, H, W, 3) of image-to-image."""
        if self.plan.pictures is None:
            return None
        try:
            return self.store.inputs()
        except Damaged as error:
            self.notes[f"the input pictures cannot be read: {error}"] = None
            return None


@contextmanager
def opened_run(directory: Path, *, only_read: bool = True) -> Iterator[StoredRun]:
    """The run in a run directory, open inside the block. With `only_read` its store is not changed.

    Raises:
        UsageError: the directory has no results.
        RunError: the store or the plan in it is damaged.
    """
    if not (directory / STORE).is_file():
        raise UsageError(f"{directory} has no results: {STORE} is missing")
    with Store(directory / STORE, only_read=only_read) as store:
        yield read_run(store)


def read_run(store: Store) -> StoredRun:
    """The run in a store.

    Raises:
        RunError: the store or the plan in it is damaged.
    """
    plan, keys = read_plan(store)
    notes = list(plan.notes)
    if unknown := [name for name in plan.metrics if name not in METRICS]:
        notes.append(f"unknown metrics are not shown: {', '.join(unknown)}")
        plan = plan.model_copy(update={"metrics": tuple(name for name in plan.metrics if name in METRICS)})
    if plan.compare is not None and plan.compare.partition(".")[0] not in Extra.model_fields:
        notes.append(f"cells cannot be compared in {plan.compare}")
        plan = plan.model_copy(update={"compare": None})
    rows = []
    for key, cell in zip(keys, plan.cells, strict=True):
        try:
            row = store.row(key)
            if row is not None:
                _check(row, plan)
        except Damaged as error:
            row = Row(key, cell, reason=f"cannot be read: {error}")
            notes.append(f"the values of {cell.label} cannot be read: {error}")
        if row is not None:
            rows.append(row)
    try:
        real = _REAL.validate_json(store.note(REAL) or "{}")
    except ValueError:
        real = {}
        notes.append("the values of real pictures cannot be read")
    return StoredRun(store, plan, rows, real, dict.fromkeys(notes))


def _check(row: Row, plan: Plan) -> None:
    """Whether the values are of this run, and can be measurements.

    Raises:
        Damaged: their number is another, or one is not finite or too large to be squared.
    """
    images = plan.images_of(row.cell) if plan.until is None else min(row.images, plan.images)
    wrong = [name for name, values in row.per_image.items() if len(values) != images]
    if wrong:
        raise Damaged(f"{wrong[0]} has {len(row.per_image[wrong[0]])} values for {images} images")
    for name, values in row.replicates.items():
        if values.shape[0] != 2 or not 2 <= values.shape[1] <= images:
            raise Damaged(f"{name} has {values.shape[0]} × {values.shape[1]} replicates for {images} images")
    for name, values in (*row.per_image.items(), *row.replicates.items()):
        if not (np.abs(values.astype(np.float64)) <= _LARGEST).all():
            raise Damaged(f"{name} has values that are not finite or above {_LARGEST:g}")
