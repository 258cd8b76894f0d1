"""Precision, recall, density and coverage against searches in a k-d tree, and against closed forms."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from scipy.spatial import KDTree
from torch import Tensor

from sdlab.metrics import Coverage, Density, Precision, Recall, diversity
from sdlab.metrics.base import Result
from sdlab.metrics.features import OfFeatures
from sdlab.metrics.jackknife import standard_error

Measured = Callable[[Tensor, Tensor], Result]


def measuring(metric: OfFeatures) -> Measured:
    """The metric of features and of those of real pictures."""
    return lambda x, real: metric.to(real)(x, ())


MEASURES: dict[str, Measured] = {
    metric.name: measuring(metric) for metric in (Precision(), Recall(), Density(), Coverage())
}


def draw(n: int, seed: int, d: int = 3) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def in_balls(points: np.ndarray, centres: np.ndarray, k: int) -> np.ndarray:
    """Which points are in the balls of which centres, (n, m), by k-d trees."""
    reach = KDTree(centres).query(centres, k=k + 1)[0][:, -1]
    found = np.zeros((len(points), len(centres)), bool)
    for j, near in enumerate(KDTree(points).query_ball_point(centres, reach)):
        found[near, j] = True
    return found


def searched(name: str, x: np.ndarray, real: np.ndarray) -> float:
    """The definitions of the papers, for sets of one size."""
    if name == "recall":
        return float(in_balls(real, x, 3).any(1).mean())
    if name == "precision":
        return float(in_balls(x, real, 3).any(1).mean())
    inside = in_balls(x, real, 5)
    return float(inside.sum() / (5 * len(x)) if name == "density" else inside.any(0).mean())


@pytest.mark.parametrize("name", MEASURES)
@pytest.mark.parametrize(("shift", "scale"), [(0.0, 1.0), (0.7, 1.0), (0.0, 0.4), (0.0, 2.0)])
def test_values_are_those_of_a_search_in_a_tree(name: str, shift: float, scale: float):
    x, real = draw(80, 1) * scale + shift, draw(80, 2)
    found = MEASURES[name](x, real).value
    assert found == pytest.approx(searched(name, x.double().numpy(), real.double().numpy()), abs=1e-12)


@pytest.mark.parametrize("name", MEASURES)
def test_more_real_pictures_are_used_in_parts_as_large_as_the_cell(name: str):
    """So all values of real pictures are the same on average, whatever the size of the reference."""
    x, real = draw(50, 1), draw(50 * 20, 2)
    order = torch.randperm(1000, generator=torch.Generator().manual_seed(0))
    sizes = [searched(name, x.double().numpy(), part.double().numpy()) for part in real[order].split(50)]
    assert MEASURES[name](x, real).value == pytest.approx(np.mean(sizes), abs=1e-12)


def test_a_sample_of_the_real_pictures_has_the_density_and_coverage_in_closed_form():
    """Naeem et al. 2020: E density = 1, E coverage = 1 − Π (N − i)/(M + N − i), i = 1 … k, in any dimension."""
    n = 40
    values = {"density": [], "coverage": []}
    for seed in range(60):
        for name, found in values.items():
            found.append(MEASURES[name](draw(n, 2 * seed, 4), draw(n, 2 * seed + 1, 4)).value)
    missed = np.prod([(n - i) / (2 * n - i) for i in range(1, 6)])
    for name, expected in {"density": 1.0, "coverage": 1 - missed}.items():
        found = np.asarray(values[name])
        assert found.mean() == pytest.approx(expected, abs=4 * found.std() / 60**0.5), name
        assert found.std() / 60**0.5 < 0.03


def test_copies_of_one_picture_are_precise_and_recall_nothing():
    real = draw(64, 0)
    copies = real[:1].repeat(64, 1) + 1e-6 * draw(64, 1)
    assert MEASURES["precision"](copies, real).value == 1
    assert MEASURES["recall"](copies, real).value <= 1 / 64
    assert MEASURES["coverage"](copies, real).value < 0.3
    far = real + 1000
    assert [measure(far, real).value for measure in MEASURES.values()] == [0, 0, 0, 0]


def test_a_missing_kind_of_pictures_costs_recall_and_coverage_alone():
    real = torch.cat([draw(64, 0), draw(64, 1) + 50])
    half = draw(128, 2)
    assert MEASURES["precision"](half, real).value > 0.8
    assert MEASURES["recall"](half, real).value == pytest.approx(0.5, abs=0.1)
    assert MEASURES["coverage"](half, real).value == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("name", ["recall", "coverage"])
@pytest.mark.parametrize("n", [40, 61])
def test_replicates_are_the_values_without_one_and_two_units(name: str, n: int):
    x, real = draw(n, 1), draw(n, 2)
    units = [i % 6 for i in range(n)]
    metric = {"recall": Recall(), "coverage": Coverage()}[name]
    found = metric.to(real)(x, units)
    assert found.replicates is not None

    def without(*some: int) -> float:
        kept = x[[unit not in some for unit in units]].double().numpy()
        if name == "recall":
            return searched("recall", kept, real.double().numpy())
        return float(in_balls(kept, real.double().numpy(), 5).any(0).mean())

    one = [without(i) for i in range(6)]
    assert found.replicates[0] == pytest.approx([6 * without() - 5 * t for t in one], abs=1e-12)
    two = [6 * without() - 5 * (one[i] + one[(i + 1) % 6]) + 4 * without(i, (i + 1) % 6) for i in range(6)]
    assert found.replicates[1] == pytest.approx(two, abs=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "most"), [("precision", 1.3), ("recall", 1.3), ("density", 1.3), ("coverage", 1.7)])
def test_standard_errors_of_values_and_of_differences_are_their_spread(name: str, most: float):
    """Up to 10 % that the repeats leave open, and for coverage, a property of several images at once, up to √2."""
    real, values, claimed = draw(512, 0), list[list[float]](), list[list[float]]()
    for seed in range(60):
        one = draw(64, 1 + 2 * seed)
        pair = [MEASURES[name](x, real) for x in (one, 0.8 * one + 0.3 * draw(64, 2 + 2 * seed))]
        values.append([pair[0].value, pair[1].value - pair[0].value])
        claimed.append([error(pair[:1]), error(pair)])
    ratio = np.sqrt(np.mean(np.square(claimed), axis=0)) / np.std(values, axis=0)
    assert (ratio > 0.75).all(), ratio
    assert (ratio < most).all(), ratio


def error(pair: Sequence[Result]) -> float:
    """The standard error of a value, or of the difference of two."""
    rows = [one.replicates if one.per_image is None else one.per_image[None] for one in pair]
    assert all(row is not None for row in rows)
    first, *others = (np.asarray(row) for row in rows)
    return standard_error(others[0] - first if others else first)


def test_diversity_is_the_mean_distance_within_a_prompt():
    x = torch.tensor([[0.0, 0.0], [9.0, 9.0], [3.0, 4.0], [9.0, 9.0], [6.0, 8.0]])
    found = diversity.estimate(x, [0, 1, 0, 1, 0])
    assert found.per_image is not None
    assert found.per_image.tolist() == pytest.approx([7.5, 0, 5, 0, 7.5])
    assert found.value == pytest.approx(4)


def test_diversity_of_gaussian_features_is_the_closed_form():
    """The distance of two draws of N(μ, I) in d dimensions is √2 times a chi variable: √2 √2 Γ((d + 1)/2)/Γ(d/2)."""
    prompts = draw(200, 0, 4) * 20
    units = [i % 200 for i in range(2000)]
    found = diversity.estimate(prompts[units] + draw(2000, 1, 4), units).value
    assert found == pytest.approx(2 * 1.3293403881791370 / 1.0, rel=0.02)  # Γ(5/2), Γ(2)
