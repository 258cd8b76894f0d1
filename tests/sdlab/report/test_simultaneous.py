"""Verdicts on many equal cells are wrong in one table of twenty, however many cells there are."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from sdlab.report.simultaneous import critical_value

TABLES = {2: 1000, 6: 500, 12: 250, 36: 60}


def cells(rng: np.random.Generator, count: int, kind: str) -> np.ndarray:
    """Values per image of equal cells, (count, 64). Half of the variance is that of the images, which cells share."""
    if kind == "shares":
        return (rng.random((count, 64)) < 0.9).astype(float)
    spread = np.linspace(0.3, 3, count)[:, None] if kind == "unlike" else 1.0
    return rng.normal(size=64) + spread * rng.normal(size=(count, 64))


@pytest.mark.parametrize("kind", ["alike", "unlike", "shares"])
@pytest.mark.parametrize("count", [2, 6, *(pytest.param(n, marks=pytest.mark.slow) for n in (12, 36))])
def test_at_most_one_table_in_twenty_calls_an_equal_cell_behind(count: int, kind: str):
    """The largest distance from the best cell, in its own standard errors."""
    rng, wrong, tables = np.random.default_rng(count), 0, TABLES[count]
    for _ in range(tables):
        values = cells(rng, count, kind)
        gaps = values - values[values.mean(axis=1).argmax()]
        errors = gaps.std(axis=1, ddof=1) / 8
        t = np.abs(gaps.mean(axis=1)) / np.where(errors > 0, errors, np.inf)
        wrong += t.max() > critical_value(values, 0.95, draws=500)
    assert wrong / tables < 0.05 + 3 * (0.05 * 0.95 / tables) ** 0.5


def test_for_two_cells_it_is_students_quantile():
    values = np.random.default_rng(0).normal(size=(2, 25))
    assert critical_value(values, 0.95, draws=20_000) == pytest.approx(stats.t.ppf(0.975, 24), rel=0.03)


def test_for_many_independent_cells_it_is_the_studentized_range():
    """Tukey's quantile q for unpaired cells with a common variance; t = q/√2."""
    values = np.random.default_rng(0).normal(size=(6, 400))
    expected = stats.studentized_range.ppf(0.95, 6, 6 * 399) / 2**0.5
    assert critical_value(values, 0.95, draws=10_000) == pytest.approx(expected, rel=0.03)


def test_copies_of_a_cell_do_not_count_as_further_comparisons():
    values = np.random.default_rng(0).normal(size=(2, 50))
    copied = np.concatenate([values, values, values])
    assert critical_value(copied, 0.95) == pytest.approx(critical_value(values, 0.95))


def test_equal_cells_cannot_be_distinguished_and_few_units_need_a_large_difference():
    values = np.random.default_rng(0).normal(size=(1, 20))
    assert critical_value(np.repeat(values, 3, axis=0), 0.95) == np.inf
    assert critical_value(np.random.default_rng(0).normal(size=(3, 2)), 0.95) == np.inf
