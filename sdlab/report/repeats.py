"""The table of repeated runs: how far a metric scatters between runs that differ in their seeds alone.

Some publish the best of three runs. The table shows what that is worth: by how much it flatters a cell, and how often
each of several cells would be named the winner.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sdlab.metrics import Metric
from sdlab.report.columns import Column, Field, Table
from sdlab.report.table import AXES, NUMBERS, heading, varying_axes
from sdlab.sweep.cell import Cell, canonical
from sdlab.sweep.plan import Plan
from sdlab.sweep.store import Row

RUNS = 3  # of which the best is published
_DRAWS = 20_000

Array = NDArray[np.float64]


def make_repeats(plan: Plan, rows: Sequence[Row]) -> Table | None:
    """One row per cell that was run with several seeds; None if fewer than `RUNS` seeds vary."""
    found: dict[str, list[Row]] = {}
    several = len({row.cell.seed for row in rows}) >= RUNS
    for row in rows if several else ():
        if row.ok:
            found.setdefault(canonical(_without_seed(row.cell).complete()), []).append(row)
    groups = [some for some in found.values() if len(some) >= RUNS]
    metrics = [metric for metric in plan.measures if metric.better in ("lower", "higher")]
    if not groups or not metrics:
        return None
    firsts = [Row("", _without_seed(some[0].cell)) for some in groups]
    columns, lines = list[Column](), list[str]()
    for metric in metrics:
        values = [np.array([row.metrics[metric.name] for row in some]) for some in groups]
        more, text = _columns(metric, values)
        columns += more
        lines += text
    settings = [name for name in varying_axes(firsts) if name != "seed"]
    return Table(
        f"{plan.name}: runs that differ in their seeds",
        (
            *(_words(name, [AXES[name](row) for row in firsts]) for name in settings),
            _words("runs", [str(len(some)) for some in groups], left=False),
            *columns,
        ),
        (
            f"± is the standard deviation between runs. best of {RUNS}: the mean, over all choices of {RUNS} runs, of "
            "the best of them. wins: how often this row has the best value if each row shows the best of "
            f"{RUNS} runs of its own.",
            *lines,
        ),
    )


def best_of(values: Array, lower: bool, runs: int = RUNS) -> float:
    """The mean over all choices of so many of the values of the best among them.

    The i-th best of n is the best of a choice if the others come after it: C(n − i, runs − 1) of C(n, runs) choices.
    """
    ranked = np.sort(values) if lower else np.sort(values)[::-1]
    count = len(ranked)
    weights = [math.comb(count - i, runs - 1) for i in range(1, count + 1)]
    return float(ranked @ np.array(weights, dtype=np.float64)) / math.comb(count, runs)


def contests(values: Sequence[Array], lower: bool, runs: int = RUNS, draws: int = _DRAWS) -> tuple[Array, Array]:
    """How often each of several rows wins with the best of `runs` of its own, (K,), and the winner's lead, (draws,).

    Rows with equal values share a win. The lead is the distance to the second best row. It is empty for a single row.
    """
    generator = np.random.default_rng(0)
    chosen = np.stack(
        [(1.0 if lower else -1.0) * generator.permuted(np.tile(one, (draws, 1)), axis=1)[:, :runs] for one in values]
    )
    ranked = chosen.min(axis=2)  # (K, draws), lower is better
    first = ranked == ranked.min(axis=0)
    wins = (first / first.sum(axis=0)).mean(axis=1)
    two = np.sort(ranked, axis=0)[:2]
    return wins, two[1] - two[0] if len(values) > 1 else np.empty(0)


def _columns(metric: Metric, values: Sequence[Array]) -> tuple[list[Column], list[str]]:
    lower, name = metric.better == "lower", metric.name
    means, spreads = [float(one.mean()) for one in values], [float(one.std(ddof=1)) for one in values]
    bests = [best_of(one, lower) for one in values]
    wins, leads = contests(values, lower)
    fields = [
        Field(metric.text(mean), error=f"±{metric.error_text(spread)}".replace("±0.", "±."))
        for mean, spread in zip(means, spreads, strict=True)
    ]
    columns = [
        Column(name, heading(metric), tuple(means), tuple(fields)),
        Column(f"{name}_deviation", f"{name}_deviation", tuple(spreads), tuple(map(_plain, spreads)), people=False),
        Column(f"{name}_best", f"best of {RUNS}", tuple(bests), tuple(Field(metric.text(one)) for one in bests)),
        Column(f"{name}_wins", "wins", tuple(map(float, wins)), tuple(Field(f"{one:.0%}") for one in wins)),
    ]
    gain = float(np.mean([abs(best - mean) for best, mean in zip(bests, means, strict=True)]))
    text = f"{metric.label}: the best of {RUNS} flatters a row by {metric.error_text(gain)} on average"
    if len(leads):
        lead = metric.error_text(float(np.median(leads)))
        text += f", and the winner leads the second row by {lead} or more in half of the contests"
    return columns, [text + "."]


def _without_seed(cell: Cell) -> Cell:
    return cell.model_copy(update={"seed": None})


def _words(name: str, texts: Sequence[str], left: bool | None = None) -> Column:
    left = name not in NUMBERS if left is None else left
    return Column(name, name, tuple(texts), tuple(map(Field, texts)), left=left)


def _plain(value: float) -> Field:
    return Field(f"{value:g}")
