"""Merging of runs: the cells of one plan that were run on several machines, in one run directory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sdlab.sweep.plan import Plan
from sdlab.sweep.run import PLAN, REAL, STORE, read_plan, write_plan
from sdlab.sweep.store import INPUTS, Damaged, Row, Store
from sdlab.system.errors import UsageError
from sdlab.system.limits import brief
from sdlab.system.lock import locked
from sdlab.system.paths import path_fault


@dataclass(frozen=True)
class Merged:
    """The outcome of a merge."""

    directory: Path
    total: int  # cells in the plan
    done: int  # cells with values
    failed: int  # cells with the reason why they have none
    notes: tuple[str, ...] = ()

    @property
    def status(self) -> int:
        """The exit status: 0 if all cells are done, otherwise 1."""
        return 0 if self.done == self.total else 1


def merge(directories: Sequence[Path], out: Path) -> Merged:
    """Copy the cells of runs of one plan into a run directory, `out` and the name of the plan.

    Rows are copied as they are. A cell that the directory has already is kept, and one with values replaces one that
    failed. The runs themselves are only read.

    Raises:
        UsageError: a directory has no results, or the runs have different plans.
        RunError: a store is damaged, or the directory is in use or cannot be written.
    """
    with _opened(directories[0]) as first:
        plan, keys = read_plan(first)
        text = first.note(PLAN) or ""
    target = out / plan.name
    if not plan.name or Path(plan.name).name != plan.name or plan.name.startswith(".") or path_fault(target):
        # A store may come from a stranger.
        raise UsageError(f"{directories[0]}: {brief(plan.name)} cannot be the name of a run directory")
    notes = list[str]()
    if (target / STORE).is_file():
        with Store(target / STORE, only_read=True) as store:
            if store.note(PLAN) is not None:  # none after a merge that was ended at its start
                _check_same(directories[0], plan, keys, target, store)
    for directory in directories[1:]:
        with _opened(directory) as store:
            _check_same(directories[0], plan, keys, directory, store)
    with locked(target), Store(target / STORE) as merged:
        if merged.note(PLAN) is None:
            write_plan(text, target, merged)
        for directory in directories:
            if directory.resolve() == target.resolve():
                continue
            with _opened(directory) as store:
                notes += _copy(store, merged, keys)
        rows = [_row(merged, key) for key in keys]
    done = sum(row is not None and row.ok for row in rows)
    return Merged(target, len(keys), done, sum(row is not None and not row.ok for row in rows), tuple(notes))


def _opened(directory: Path) -> Store:
    if not (directory / STORE).is_file():
        raise UsageError(f"{directory} has no results: {STORE} is missing")
    return Store(directory / STORE, only_read=True)


def _check_same(first: Path, plan: Plan, keys: list[str], directory: Path, store: Store) -> None:
    """Check that a run has the plan of the first one: the same values in the same cells."""
    other, others = read_plan(store)
    if keys == others:
        return
    ours, theirs = plan.model_dump(), other.model_dump()
    differing = [
        name
        for name in ours
        if name not in ("batch", "notes", "compare", "timing_rounds") and ours[name] != theirs[name]
    ]
    what = ", ".join(differing) or "the files of the model"
    raise UsageError(f"{directory} does not belong to {first}: they differ in {what}; merge shards of one sweep")


def _copy(source: Store, merged: Store, keys: Sequence[str]) -> list[str]:
    """Copy the rows of these keys, and what all cells share. Returns notes on rows that cannot be read."""
    notes = list[str]()
    for key in keys:
        try:
            row, there = source.row(key), _row(merged, key)
            if row is not None and (there is None or (row.ok and not there.ok)):
                merged.take(source, key)
        except Damaged as error:
            notes.append(f"a cell of {source.path} cannot be read: {error}")
    for note in (REAL, INPUTS):
        if (text := source.note(note)) is not None and merged.note(note) is None:
            merged.set_note(note, text)
    return notes


def _row(store: Store, key: str) -> Row | None:
    """The row of a key, if it exists and can be read."""
    try:
        return store.row(key)
    except Damaged:
        return None
