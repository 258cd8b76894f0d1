"""Intervals follow the textbook, and cells that they cannot distinguish from the best are ties."""

import numpy as np
import pytest
from scipy import stats

from sdlab.metrics import METRICS
from sdlab.report.statistics import difference, standard_error, standings
from sdlab.sweep.cell import Cell, Choice
from sdlab.sweep.store import Row

CELL = Cell(sampler=Choice(name="ddim"), grid=Choice(name="trailing"), guidance=Choice(name="none"), steps=5)
FID, CLIP = METRICS["fid"], METRICS["clip_score"]


def scored(values: np.ndarray) -> Row:
    return Row("", CELL, metrics={"clip_score": float(values.mean())}, per_image={"clip_score": values})


def set_value(value: float, error: float | None) -> Row:
    return Row("", CELL, metrics={"fid": value}, stderr={} if error is None else {"fid": error})


def test_the_interval_is_that_of_the_paired_t_test():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 30))
    ours, theirs = difference(CLIP, scored(a), scored(b)), stats.ttest_rel(a, b).confidence_interval(0.95)
    np.testing.assert_allclose((ours.low, ours.high), theirs, rtol=1e-12)


def test_pairing_distinguishes_cells_that_their_own_errors_would_not():
    """Images differ by 10, cells by 0.5: lost in the noise unpaired (standard error 1), clear when paired."""
    rng = np.random.default_rng(0)
    images, jitter = 10 * rng.normal(size=100), rng.normal(size=(2, 100))
    best, behind = scored(images + jitter[0] + 0.5), scored(images + jitter[1])
    assert stats.ttest_ind(best.per_image["clip_score"], behind.per_image["clip_score"]).pvalue > 0.5
    assert [s.best for s in standings(CLIP, [best, behind])] == [True, False]
    assert not standings(CLIP, [best, behind])[1].ties


def test_cells_that_differ_by_chance_alone_tie_in_95_of_100_cases():
    rng, n = np.random.default_rng(0), 4000
    pairs = rng.normal(size=(n, 2, 25))
    inside = sum(difference(CLIP, scored(a), scored(b)).ties for a, b in pairs)
    assert inside / n == pytest.approx(0.95, abs=4 * (0.95 * 0.05 / n) ** 0.5)


@pytest.mark.parametrize(("gap", "ties"), [(2.7, True), (2.85, False)])
def test_metrics_of_a_set_tie_within_1_96_errors_of_the_difference(gap, ties):
    """1.96 × √(1² + 1²) = 2.77."""
    assert standings(FID, [set_value(20, 1.0), set_value(20 + gap, 1.0)])[1].ties is ties


def test_without_standard_errors_only_equals_tie():
    first, same, other = standings(FID, [set_value(20, None), set_value(20, None), set_value(20.01, None)])
    assert (first.best, same.ties, other.ties) == (True, True, False)


def test_the_best_is_lowest_or_highest_by_metric_and_failures_have_no_standing():
    rows = [Row("", CELL, reason="NaN"), set_value(20, 0.1), set_value(10, 0.1)]
    assert [s and s.best for s in standings(FID, rows)] == [None, False, True]
    rows = [scored(np.full(4, 20.0)), scored(np.full(4, 30.0))]
    assert [s.best for s in standings(CLIP, rows)] == [False, True]


def test_standard_errors_are_those_of_the_textbook():
    a, b = np.random.default_rng(0).normal(size=(2, 30))
    assert standard_error(CLIP, scored(a)) == pytest.approx(stats.sem(a), rel=1e-12)
    assert difference(CLIP, scored(a), scored(b)).error == pytest.approx(stats.sem(a - b), rel=1e-12)
    assert standard_error(FID, set_value(20, 1.5)) == 1.5
    assert difference(FID, set_value(20, 3.0), set_value(10, 4.0)).error == pytest.approx(5.0)
