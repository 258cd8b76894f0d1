"""FID and KID against closed forms, against torchmetrics, and on sets whose order is known."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

from sdlab.metrics import fid, kid
from sdlab.metrics.base import Result
from sdlab.metrics.features import Statistics


def cloud(n: int, seed: int, mean: float = 0.0, std: float = 1.0, d: int = 4) -> Tensor:
    """n draws of N(mean, std²) in d dimensions, moved and scaled to have exactly that mean and (co)variance."""
    x = torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    x = x - x.mean(0)
    root = torch.linalg.cholesky(x.T @ x / (n - 1))
    return (torch.linalg.solve_triangular(root, x.T, upper=False).T * std + mean).float()


def measure(name: str, features: Tensor, real: Tensor) -> Result:
    return fid.estimate(features, Statistics.of(real)) if name == "fid" else kid.estimate(features, real)


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


@pytest.mark.parametrize("n", [4, 16, 250])
def test_kid_is_that_of_torchmetrics_with_the_same_subsets(n: int):
    generator = torch.Generator().manual_seed(n)
    real, features = torch.randn(200, 8, generator=generator), 0.3 + torch.randn(n, 8, generator=generator)
    witness = KernelInceptionDistance(Given(8), subsets=20, subset_size=min(n, 200))
    witness.update(real, real=True)
    witness.update(features, real=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # torchmetrics draws its subsets from the global stream
        expected = float(witness.compute()[0])
    assert kid.distance(features, real) == pytest.approx(expected, rel=1e-6)


def test_kid_is_the_estimator_of_the_paper():
    """Bińkowski et al. 2018, eq. 4: two means over different pairs, and one over all pairs, of (xᵀy/d + 1)³."""
    x, y = (torch.randn(6, 3, generator=torch.Generator().manual_seed(seed)).double() for seed in (0, 1))

    def kernel(a: Tensor, b: Tensor) -> float:
        return float((a @ b / 3 + 1) ** 3)

    within = sum(kernel(s[i], s[j]) for s in (x, y) for i in range(6) for j in range(6) if i != j) / 30
    across = sum(kernel(a, b) for a in x for b in y) / 36
    assert kid.distance(x, y) == pytest.approx(within - 2 * across, rel=1e-12)


@pytest.mark.parametrize("name", ["fid", "kid"])
def test_the_standard_error_is_the_spread_over_repeated_sets(name: str):
    generator = torch.Generator().manual_seed(0)
    real = torch.randn(2000, 8, generator=generator)
    found = [measure(name, 0.5 + torch.randn(100, 8, generator=generator), real) for _ in range(40)]
    spread = torch.tensor([f.value for f in found]).std()
    claimed = torch.tensor([f.stderr for f in found]).mean()
    assert 0.6 < float(claimed / spread) < 1.6


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
    same, near, far = (kid.estimate(draw(200) + shift, real) for shift in (0.0, 0.3, 1.0))
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


@pytest.mark.parametrize(("metric", "size", "distinct"), [(kid, 30, True), (fid, 60, False)])
def test_the_draws_behind_a_standard_error_spread_a_mean_as_its_own_error(
    metric: ModuleType, size: int, distinct: bool, monkeypatch: pytest.MonkeyPatch
):
    """Halves without replacement and bootstrap samples of size n both give a mean the spread s/√n."""
    n, draws, features = 60, list[Tensor](), torch.randn(60, 1, generator=torch.Generator().manual_seed(0)).double()

    def mean(drawn: Tensor, _: object) -> float:
        draws.append(drawn)
        return float(drawn.mean())

    monkeypatch.setattr(metric, "distance", mean)
    monkeypatch.setattr(metric, "_RESAMPLES", 2000)
    found = metric.estimate(features, features)
    *draws, whole = draws
    assert torch.equal(whole, features)
    assert {len(drawn) for drawn in draws} == {size}
    assert all((len(drawn.unique()) == size) is distinct for drawn in draws)
    assert found.stderr == pytest.approx(float(features.std()) / n**0.5, rel=0.08)  # 5 × 1/√(2 × 2000)
