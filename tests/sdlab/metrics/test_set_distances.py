"""FID and KID against closed forms, against torchmetrics, and on sets whose order is known."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from scipy import linalg, stats
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

from sdlab.metrics import fid, jackknife, kid
from sdlab.metrics.base import Result
from sdlab.metrics.features import Statistics, units_within
from sdlab.metrics.jackknife import standard_error
from sdlab.metrics.moments import Moments


def cloud(n: int, seed: int, mean: float = 0.0, std: float = 1.0, d: int = 4) -> Tensor:
    """n draws of N(mean, std²) in d dimensions, moved and scaled to have exactly that mean and (co)variance."""
    x = torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    x = x - x.mean(0)
    root = torch.linalg.cholesky(x.T @ x / (n - 1))
    return (torch.linalg.solve_triangular(root, x.T, upper=False).T * std + mean).float()


def measure(name: str, features: Tensor, real: Tensor, units: Sequence[int] = ()) -> Result:
    return estimate(features, reference(name, real), units)


def reference(name: str, real: Tensor) -> Statistics | kid.Subsets:
    return Statistics.of(real) if name == "fid" else kid.Subsets(real)


def estimate(features: Tensor, real: Statistics | kid.Subsets, units: Sequence[int] = ()) -> Result:
    if isinstance(real, Statistics):
        return fid.estimate(features, real, units)
    return kid.estimate(features, real, units)


class Given(nn.Module):
    """Stands in for the network of torchmetrics: it is given features instead of pictures."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, features: Tensor) -> Tensor:
        return features


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (0.5, 1.0), (0.0, 2.0), (-1.0, 0.5)])
def test_fid_of_gaussians_is_the_closed_form(mean: float, std: float):
    # Dowson & Landau 1982: |m₁ − m₂|² + tr(S₁ + S₂ − 2 (S₁ S₂)^½), here d ((Δm)² + (σ₁ − σ₂)²)
    found = measure("fid", cloud(400, 1, mean, std), cloud(500, 0))
    assert found.value == pytest.approx(4 * (mean**2 + (std - 1) ** 2), abs=1e-3)


@pytest.mark.parametrize(("n", "d", "dtype"), [
    (5, 40, torch.float64), (20, 40, torch.float64), (41, 40, torch.float64), (300, 40, torch.float64),
    (50, 6, torch.float32),
])  # fmt: skip
def test_fid_is_that_of_torchmetrics(n: int, d: int, dtype: torch.dtype):
    generator = torch.Generator().manual_seed(n)
    real = torch.randn(200, d, generator=generator, dtype=dtype)
    features = 0.3 + torch.randn(n, d, generator=generator, dtype=dtype)
    witness = FrechetInceptionDistance(Given(d))
    witness.update(real, real=True)
    witness.update(features, real=False)
    assert fid.distance(features, Statistics.of(real)) == pytest.approx(float(witness.compute()), rel=1e-6)


def test_fid_is_the_formula_of_torch_fidelity_and_clean_fid():
    """Both subtract twice the trace of a matrix square root of the product of the covariances."""
    generator = torch.Generator().manual_seed(0)
    real, features = (torch.randn(n, 24, generator=generator) + shift for n, shift in ((300, 0.0), (90, 0.3)))
    means = [x.double().numpy().mean(0) for x in (features, real)]
    covariances = [np.cov(x.double().numpy(), rowvar=False) for x in (features, real)]
    shared = np.trace(linalg.sqrtm(covariances[0] @ covariances[1])).real
    expected = np.square(means[0] - means[1]).sum() + np.trace(covariances[0] + covariances[1]) - 2 * shared
    assert fid.distance(features, Statistics.of(real)) == pytest.approx(expected, rel=1e-8)


def test_moments_of_parts_are_those_of_the_whole_even_far_from_zero():
    x = 1e6 + torch.randn(70, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    parts = [Moments.of(part) for part in x.split([1, 40, 29])]
    for found in ((parts[0] + parts[1]) + parts[2], parts[2] + (parts[0] + parts[1])):
        assert found.count == 70
        torch.testing.assert_close(found.mean, x.mean(0), rtol=1e-14, atol=0)
        torch.testing.assert_close(found.covariance, torch.cov((x - 1e6).T), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("n", [4, 16, 250])
def test_kid_is_that_of_torchmetrics_with_the_same_subsets(n: int):
    generator = torch.Generator().manual_seed(n)
    real = torch.randn(200, 8, generator=generator).double()
    features = 0.3 + torch.randn(n, 8, generator=generator).double()
    witness = KernelInceptionDistance(Given(8), subsets=20, subset_size=min(n, 200))
    witness.update(real, real=True)
    witness.update(features, real=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # torchmetrics draws its subsets from the global stream
        expected = float(witness.compute()[0])
    assert measure("kid", features, real).value == pytest.approx(expected, rel=1e-9)


def test_kid_of_more_cells_computes_no_kernel_among_the_real_pictures_again(monkeypatch: pytest.MonkeyPatch):
    draw = torch.Generator().manual_seed(0)
    real, cells = torch.randn(64, 8, generator=draw), [torch.randn(16, 8, generator=draw) for _ in range(3)]
    one_by_one = [measure("kid", cell, real).value for cell in cells]
    sizes, kernel = list[tuple[int, int]](), kid._kernel
    monkeypatch.setattr(kid, "_kernel", lambda x, y: (sizes.append((len(x), len(y))), kernel(x, y))[1])
    subsets = kid.Subsets(real)
    assert [kid.estimate(cell, subsets).value for cell in cells] == one_by_one
    assert len(sizes) == 20 * 2 + 3 * 3  # of 20 subsets, each with its diagonal; then of each cell, and of it and them
    assert sizes[-3:] == [(16, 16), (16, 64), (16, 16)]


def test_kid_is_the_estimator_of_the_paper():
    """Bińkowski et al. 2018, eq. 4: two means over different pairs, and one over all pairs, of (xᵀy/d + 1)³."""
    x, y = (torch.randn(6, 3, generator=torch.Generator().manual_seed(seed)).double() for seed in (0, 1))

    def kernel(a: Tensor, b: Tensor) -> float:
        return float((a @ b / 3 + 1) ** 3)

    within = sum(kernel(s[i], s[j]) for s in (x, y) for i in range(6) for j in range(6) if i != j) / 30
    across = sum(kernel(a, b) for a in x for b in y) / 36
    assert measure("kid", x, y).value == pytest.approx(within - 2 * across, rel=1e-12)


@pytest.mark.parametrize("name", ["fid", "kid"])
@pytest.mark.parametrize(
    ("n", "d", "shift"),
    [
        (128, 64, 0.0),
        pytest.param(128, 64, 0.3, marks=pytest.mark.slow),
        pytest.param(96, 8, 0.3, marks=pytest.mark.slow),
        pytest.param(64, 96, 0.0, marks=pytest.mark.slow),
        pytest.param(64, 96, 0.3, marks=pytest.mark.slow),
    ],
)
def test_standard_errors_of_values_and_of_differences_are_their_spread(name: str, n: int, d: int, shift: float):
    """Of white Gaussian features, and of a second cell with mostly the same noise. At `shift` 0 nothing is linear."""
    generator = torch.Generator().manual_seed(0)

    def draw(n: int) -> Tensor:
        return torch.randn(n, d, generator=generator)

    real, values, claimed = reference(name, draw(2048)), list[list[float]](), list[list[float]]()
    for repeat in range(60):
        one, noise = draw(n) + shift, draw(n)
        cells = [one, 1.05 * (one + 0.3 * noise)]
        if repeat < 5:
            first, second = (estimate(cell, real) for cell in cells)
            assert first.stderr is not None
            change = np.asarray(second.replicates) - np.asarray(first.replicates)
            claimed.append([first.stderr**2, standard_error(change) ** 2])
        else:
            first, second = (value_alone(cell, real) for cell in cells)
        values.append([first.value, second.value - first.value])
    ratio = np.sqrt(np.mean(claimed, axis=0)) / np.std(values, axis=0)
    assert ratio == pytest.approx([1.1, 1.1], abs=0.3)  # known to 1/√120 = 9 % from the repeats alone


def value_alone(features: Tensor, real: Statistics | kid.Subsets) -> Result:
    return Result(fid.distance(features, real)) if isinstance(real, Statistics) else kid.estimate(features, real)


@pytest.mark.parametrize("name", ["fid", "kid"])
@pytest.mark.parametrize(("n", "d"), [(40, 6), (12, 20)])
def test_replicates_are_the_distances_without_one_and_two_units(name: str, n: int, d: int):
    generator = torch.Generator().manual_seed(0)
    features, real = torch.randn(n, d, generator=generator), torch.randn(200, d, generator=generator)
    units = [i % 5 for i in range(n)]
    found = measure(name, features, real, units)
    assert found.replicates is not None
    pseudo, interactions = found.replicates

    def without(*some: int) -> float:
        kept = features[[unit not in some for unit in units]]
        return fid.distance(kept, Statistics.of(real)) if name == "fid" else unbiased(kept, real)

    def unbiased(x: Tensor, real: Tensor) -> float:
        x, real, m = x.double(), real.double(), len(x)
        kernel = (x @ x.T / d + 1) ** 3
        within = (kernel.sum() - kernel.diagonal().sum()) / (m * (m - 1))
        return float(within - 2 * ((x @ real.T / d + 1) ** 3).mean())

    moved = found.value - without()  # KID is measured on subsets of the real pictures
    expected = [5 * without() - 4 * without(i) + moved for i in range(5)]
    torch.testing.assert_close(pseudo, torch.tensor(expected).double(), rtol=1e-5, atol=1e-5)
    pairs = [(i, (i + 1) % 5) for i in range(5)]
    expected = [5 * without() - 4 * (without(i) + without(j)) + 3 * without(i, j) for i, j in pairs]
    torch.testing.assert_close(interactions, torch.tensor(expected).double(), rtol=1e-4, atol=1e-4)


def test_the_jackknife_of_a_mean_is_the_textbook_error_and_that_of_a_quadratic_is_at_most_a_sixth_too_large():
    rng, n = np.random.default_rng(0), 40
    mean = rng.normal(size=n)
    found = jackknife.replicates(mean.mean(), n, lambda some: np.delete(mean, some).mean())
    assert found == pytest.approx(np.stack([mean, np.zeros(n)]))
    assert standard_error(found) == pytest.approx(stats.sem(mean))

    def quadratic(x: np.ndarray) -> float:
        """The mean of xᵢ · xⱼ over pairs, in 20 dimensions. Its variance 40/(n (n − 1)) is all of order 2."""
        return float((np.square(x.sum(0)).sum() - np.square(x).sum()) / (len(x) * (len(x) - 1)))

    claimed = [
        standard_error(jackknife.replicates(quadratic(x), n, lambda some, x=x: quadratic(np.delete(x, some, 0)))) ** 2
        for x in rng.normal(size=(60, n, 20))
    ]
    assert np.mean(claimed) / (40 / (n * (n - 1))) == pytest.approx(4 / 3, abs=0.15)


def test_units_are_prompts_unless_they_are_too_few_and_never_more_than_wanted():
    assert units_within([0, 1, 2, 3, 0, 1], 6, 256).tolist() == [0, 1, 2, 3, 0, 1]
    assert units_within([0, 1, 2, 0, 1, 2], 6, 256).tolist() == list(range(6))
    assert units_within((), 6, 4).tolist() == [0, 1, 2, 3, 0, 1]


def test_fid_with_a_degenerate_reference_is_finite():
    real = cloud(300, 0, d=12)
    flat = torch.cat([real, real[:, :3]], dim=1)  # three features twice: a singular covariance
    few = cloud(40, 1, 0.4, 1.3, d=12)
    found = fid.distance(torch.cat([few, few[:, :3]], dim=1), Statistics.of(flat))
    assert np.isfinite(found)
    assert found > fid.distance(few, Statistics.of(real))


def test_kid_is_about_zero_for_one_distribution_and_grows_with_distance():
    generator = torch.Generator().manual_seed(0)

    def draw(n: int) -> Tensor:
        return torch.randn(n, 8, generator=generator)

    real = draw(1000)
    same, near, far = (measure("kid", draw(200) + shift, real) for shift in (0.0, 0.3, 1.0))
    assert same.stderr is not None
    assert near.stderr is not None
    assert abs(same.value) < 4 * same.stderr
    assert 4 * near.stderr < near.value < far.value


@pytest.mark.parametrize("name", ["fid", "kid"])
def test_a_metric_leaves_the_global_random_stream_alone(name: str):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    measure(name, cloud(50, 0), cloud(50, 1))
    assert torch.equal(torch.rand(3), expected)
