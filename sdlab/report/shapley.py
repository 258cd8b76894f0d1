"""Shapley values: the share of each part in a whole that is not the sum of its parts."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from math import comb


def shapley(players: int, value: Callable[[frozenset[int]], float]) -> list[float]:
    """The mean of what each player adds to the value of those before it, over all orders of the players.

    The values sum to that of all players, minus that of none (Shapley 1953, A Value for n-Person Games). `value` is
    called once for each of the 2^n sets.
    """
    known = {
        frozenset(some): value(frozenset(some))
        for size in range(players + 1)
        for some in combinations(range(players), size)
    }
    return [
        sum(
            (known[some | {i}] - known[some]) / (players * comb(players - 1, len(some)))
            for some in known
            if i not in some
        )
        for i in range(players)
    ]
