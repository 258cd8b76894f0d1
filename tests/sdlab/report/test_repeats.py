"""What the best of three runs is worth."""

from itertools import combinations

import numpy as np
import pytest

from sdlab.report.repeats import best_of, contests


@pytest.mark.parametrize("lower", [True, False])
def test_the_best_of_three_is_the_mean_over_all_choices(lower: bool):
    values = np.random.default_rng(0).normal(size=7)
    best = min if lower else max
    expected = np.mean([best(some) for some in combinations(values, 3)])
    assert best_of(values, lower) == pytest.approx(expected)


def test_the_best_of_three_normal_runs_flatters_by_its_known_share():
    values = np.random.default_rng(0).normal(size=100_000)
    assert best_of(values, lower=True) == pytest.approx(
        -1.5 / np.pi**0.5, abs=0.01
    )  # the mean of the smallest of three


@pytest.mark.parametrize("lower", [True, False])
def test_equal_rows_win_equally_often_and_a_clearly_better_one_always(lower: bool):
    sign = 1 if lower else -1
    runs = sign * np.random.default_rng(0).normal(size=12)
    wins, leads = contests([runs, runs.copy(), runs.copy()], lower)
    assert wins == pytest.approx(1 / 3, abs=0.02)
    assert (leads >= 0).all()
    wins, leads = contests([runs, runs - 100 * sign], lower)
    assert list(wins) == [0, 1]
    assert leads.mean() == pytest.approx(100, abs=2)
