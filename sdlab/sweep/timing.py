"""Timing in rounds: all cells are timed in turn, so that a machine that slows down slows all of them alike."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime

from sdlab.sweep.cell import Cell
from sdlab.sweep.plan import Plan
from sdlab.sweep.results import Bench, CellFailed
from sdlab.sweep.store import Row
from sdlab.sweep.times import Times, repeated
from sdlab.system.other_work import OtherWork

Timed = tuple[Times, list[float]]
"""The repetitions of a cell, and the share of the processor that other programs used in each, as far as it is known."""


def complete(plan: Plan, rows: Iterable[Row]) -> bool:
    """Whether all rows have been timed in the same rounds, as many as the plan has."""
    found = [row.times for row in rows if row.ok]
    return len({times.rounds for times in found}) <= 1 and all(
        times.rounds and len(times.whole) == plan.timing_rounds for times in found
    )


def time_in_rounds(
    plan: Plan,
    bench: Bench,
    cells: Mapping[str, Cell],
    begin: Callable[[Cell], object],
    done: Callable[[], object],
    on_progress: Callable[[float], None],
) -> dict[str, Timed]:
    """The times of the cells, by key. Each round is in the opposite order of the one before.

    The first round is a warm-up and is left out. A cell that fails is left out too. `begin` and `done` are called
    before and after each repetition.
    """
    began = datetime.now(UTC).isoformat(timespec="seconds")
    spent: dict[str, list[Times]] = {key: [] for key in cells}
    shares: dict[str, list[float]] = {key: [] for key in cells}
    for number in range(plan.timing_rounds + 1):
        of_round, untold = OtherWork(), list[str]()
        for key in list(spent) if number % 2 else list(spent)[::-1]:
            begin(cells[key])
            others = OtherWork()
            try:
                times = bench.time(cells[key], on_progress)
            except CellFailed:
                del spent[key]
            else:
                if number:
                    spent[key].append(times)
                    share = others.share()
                    untold += [key] if share is None else []
                    shares[key] += [] if share is None else [share]
            done()
        if (share := of_round.share()) is not None:  # stands for repetitions that are too short to tell
            for key in untold:
                shares[key].append(share)
    return {key: (repeated(some, rounds=began), shares[key]) for key, some in spent.items()}
