"""Shapley values: their axioms, and games whose values are known."""

from __future__ import annotations

from itertools import permutations
from statistics import mean

import pytest

from sdlab.report.shapley import shapley

WEIGHTS = [1.0, 2.0, 4.0]


def test_the_shares_of_a_sum_are_its_terms():
    assert shapley(3, lambda some: sum(WEIGHTS[i] for i in some)) == pytest.approx(WEIGHTS)


def test_equal_players_of_a_game_that_needs_all_share_it():
    assert shapley(3, lambda some: float(len(some) == 3)) == pytest.approx([1 / 3] * 3)


def test_the_glove_game_has_its_known_values():
    """One player has a left glove, and two have a right one: 2/3, 1/6 and 1/6."""
    assert shapley(3, lambda some: float(0 in some and len(some) > 1)) == pytest.approx([2 / 3, 1 / 6, 1 / 6])


def test_they_are_means_over_all_orders_and_sum_to_the_whole():
    def value(some: frozenset[int]) -> float:
        return 3.0 + sum(WEIGHTS[i] for i in some) ** 1.5 - 2 * (1 in some and 2 in some)

    def added(i: int, order: tuple[int, ...]) -> float:
        before = frozenset(order[: order.index(i)])
        return value(before | {i}) - value(before)

    found = shapley(3, value)
    assert found == pytest.approx([mean(added(i, order) for order in permutations(range(3))) for i in range(3)])
    assert sum(found) == pytest.approx(value(frozenset(range(3))) - value(frozenset()))
    assert shapley(0, value) == []
