"""MIND: the formula, closed forms for Gaussians and shifts, sets of different sizes, and its jackknife."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import wasserstein_distance
from torch import Tensor

from sdlab.metrics import mind
from sdlab.metrics.mind import DIRECTIONS, Projections


def draw(n: int, d: int, seed: int, std: float = 1.0) -> Tensor:
    return std * torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def white(x: Tensor) -> Tensor:
    """The same draws with exactly the mean 0 and the covariance 1."""
    x = x - x.mean(0)
    root = torch.linalg.cholesky(x.T @ x / len(x))
    return torch.linalg.solve_triangular(root, x.T, upper=False).T


def value(features: Tensor, real: Tensor) -> float:
    return mind.estimate(features, Projections(real)).value


def test_mind_is_the_formula_of_torch_fidelity_for_sets_of_one_size():
    """3 d / (n M) Σ over directions and places of the squared difference of sorted projections."""
    x, y = draw(30, 5, 0), 0.5 + draw(30, 5, 1)
    u = Projections(y).directions
    assert u.shape == (DIRECTIONS, 5)
    torch.testing.assert_close(u.norm(dim=1), torch.ones(DIRECTIONS).double())
    expected = np.mean([3 * 5 * np.mean((np.sort(x @ a) - np.sort(y @ a)) ** 2) for a in u])
    assert value(x, y) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("n", "m"), [(6, 9), (9, 6), (8, 4), (7, 1)])
def test_sets_of_different_sizes_are_compared_as_empirical_laws(n: int, m: int):
    """Every picture copied until both sets have one size leaves both laws as they are."""
    x, y, size = draw(n, 3, 0), draw(m, 3, 1), int(np.lcm(n, m))
    copied = value(x.repeat(size // n, 1), y.repeat(size // m, 1))
    assert value(x, y) == pytest.approx(copied, rel=1e-10)


def test_in_one_dimension_a_transport_of_one_sign_has_the_cost_of_scipy():
    x, y = draw(50, 1, 0), draw(50, 1, 1)
    shifted = y + 100  # beyond overlap W₂² exceeds W₁² by the spread of the transports alone
    moves = np.sort(shifted[:, 0]) - np.sort(x[:, 0])
    w1 = wasserstein_distance(x[:, 0].numpy(), shifted[:, 0].numpy())
    assert value(x, shifted) == pytest.approx(3 * (w1**2 + moves.var()), rel=1e-10)


def test_mind_of_a_shift_is_three_times_its_squared_length():
    """E (u·s)² = |s|²/d over directions u, known to √(2/M) for one direction of s."""
    x = draw(40, 8, 0)
    shift = torch.linspace(-1, 1, 8).double()
    assert value(x + shift, x) == pytest.approx(3 * float(shift.square().sum()), rel=4 * (2 / DIRECTIONS) ** 0.5)
    assert value(x, x) == pytest.approx(0, abs=1e-10)


def test_mind_of_white_gaussians_is_the_closed_form():
    """Along any line both are Gaussian, so W₂² = (σ − 1)² and MIND = 3 d (σ − 1)²; the bias is that of σ = 1."""
    real, other = (white(draw(600, 2, seed)) for seed in (0, 1))
    assert value(1.5 * other, real) == pytest.approx(3 * 2 * 0.25, rel=0.03)
    assert value(other, real) < 0.04


@pytest.mark.parametrize("units", [(), tuple(i % 5 for i in range(12))])
def test_replicates_are_those_of_the_smaller_sets(units: tuple[int, ...]):
    x, real = draw(12, 3, 0), Projections(draw(20, 3, 1))
    found = mind.estimate(x, real, units)
    of_image = torch.tensor(units or range(12))
    count = len(set(of_image.tolist()))
    assert found.replicates is not None
    assert found.replicates.shape == (2, count)
    for i in range(count):
        less = mind.estimate(x[of_image != i], real).value
        assert float(found.replicates[0, i]) == pytest.approx(count * found.value - (count - 1) * less, rel=1e-9)
