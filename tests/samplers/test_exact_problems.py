"""The closed-form problems against definitions: densities, quadrature, moments, the ODE."""

import math

import numpy as np
import pytest
import torch
from sampler_problems import MIXTURE, SPECTRUM, start
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from samplers.exact.problems import Gaussian, GaussianMixture

PROBLEMS = pytest.mark.parametrize("problem", [SPECTRUM, MIXTURE], ids=["gaussian", "mixture"])
SIGMAS = pytest.mark.parametrize("sigma", [0.05, 0.8, 12.0])


def density(problem, sigma):
    """The law of x at level sigma, by torch.distributions."""
    if isinstance(problem, Gaussian):
        return Independent(Normal(problem.mean.double(), (problem.std.double() ** 2 + sigma**2).sqrt()), 1)
    std = (problem.stds.double()[:, None] ** 2 + sigma**2).sqrt().expand_as(problem.means)
    return MixtureSameFamily(Categorical(problem.weights.double()), Independent(Normal(problem.means, std), 1))


@SIGMAS
@PROBLEMS
def test_score_is_the_gradient_of_the_log_density(problem, sigma):
    x = start(20, problem.marginal_mean(0.0).numel(), sigma=max(sigma, 1.0)).requires_grad_()
    (gradient,) = torch.autograd.grad(density(problem, sigma).log_prob(x).sum(), x)
    torch.testing.assert_close(problem.score(x, sigma), gradient, atol=1e-9, rtol=1e-9)


@SIGMAS
@PROBLEMS
def test_denoiser_obeys_tweedie(problem, sigma):
    x = start(20, problem.marginal_mean(0.0).numel(), sigma=max(sigma, 1.0))
    torch.testing.assert_close(problem.denoise(x, sigma), x + sigma**2 * problem.score(x, sigma), atol=1e-9, rtol=1e-9)


@SIGMAS
def test_mixture_denoiser_is_the_posterior_mean_by_quadrature(sigma):
    problem = GaussianMixture(torch.tensor([-1.0, 0.5]).double(), torch.tensor([0.3, 0.2]), torch.tensor([1.0, 3.0]))
    x0 = torch.linspace(-4, 4, 80_001, dtype=torch.float64)
    prior = sum(
        w * torch.exp(-(((x0 - m) / s) ** 2) / 2) / s
        for w, m, s in zip((0.25, 0.75), (-1.0, 0.5), problem.stds.tolist(), strict=True)
    )
    for x in (-1.7, 0.0, 0.4):
        weight = prior * torch.exp(-(((x - x0) / sigma) ** 2) / 2)
        expected = (weight * x0).sum() / weight.sum()
        assert problem.denoise(torch.tensor([x]).double(), sigma).item() == pytest.approx(expected.item(), abs=1e-6)


@PROBLEMS
def test_moments_are_those_of_the_law(problem):
    law = density(problem, 0.8)
    torch.testing.assert_close(problem.marginal_mean(0.8), law.mean, atol=1e-7, rtol=0)
    torch.testing.assert_close(problem.marginal_variance(0.8), law.variance, atol=1e-6, rtol=0)


@PROBLEMS
def test_samples_have_the_moments_of_the_data(problem):
    n = 50_000
    x = problem.sample(n, torch.Generator().manual_seed(1), torch.float64)
    mean, variance = problem.marginal_mean(0.0), problem.marginal_variance(0.0)
    assert ((x.mean(0) - mean).abs() < 4 * (variance / n).sqrt()).all()
    fourth = (x - mean).pow(4).mean(0)
    assert ((x.var(0) - variance).abs() < 4 * ((fourth - variance**2) / n).sqrt()).all()


@PROBLEMS
def test_flow_moves_along_the_score(problem):
    """A central difference of the flow in σ is dx/dσ = −σ ∇ log p(x; σ)."""
    x, sigma, h = start(5, problem.marginal_mean(0.0).numel(), sigma=2.0), 2.0, 1e-4
    slope = (problem.flow(x, sigma, sigma + h) - problem.flow(x, sigma, sigma - h)) / (2 * h)
    torch.testing.assert_close(slope, -sigma * problem.score(x, sigma), atol=1e-7, rtol=1e-7)


@PROBLEMS
def test_flow_is_a_group(problem):
    x = start(5, problem.marginal_mean(0.0).numel(), sigma=8.0)
    direct = problem.flow(x, 8.0, 0.0)
    torch.testing.assert_close(problem.flow(problem.flow(x, 8.0, 0.7), 0.7, 0.0), direct, atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(problem.flow(direct, 0.0, 8.0), x, atol=1e-8, rtol=1e-8)


def test_flow_carries_the_law_of_noise_to_the_law_of_the_data():
    """In one dimension the flow is monotone, so it maps quantile to quantile."""
    problem = GaussianMixture(torch.tensor([-1.0, 0.5]).double(), torch.tensor([0.3, 0.2]), torch.tensor([1.0, 3.0]))
    stds = problem.stds.double()

    def cdf(x, sigma):
        z = (x[:, None] - problem.means) / (stds**2 + sigma**2).sqrt()
        return (torch.tensor([0.25, 0.75]).double() * torch.special.ndtr(z)).sum(1)

    x = torch.linspace(-9, 9, 13, dtype=torch.float64)
    torch.testing.assert_close(cdf(problem.flow(x, 6.0, 0.0), 0.0), cdf(x, 6.0), atol=1e-9, rtol=0)


def test_one_component_is_a_gaussian():
    gaussian, x = Gaussian(std=0.7, mean=1.5), start(6, 3, sigma=2.0)
    mixture = GaussianMixture(torch.full((1, 3), 1.5, dtype=torch.float64), 0.7)
    for ours, theirs in ((gaussian.denoise, mixture.denoise), (gaussian.score, mixture.score)):
        torch.testing.assert_close(ours(x, 0.9), theirs(x, 0.9), atol=1e-12, rtol=0)
    torch.testing.assert_close(gaussian.flow(x, 2.0, 0.3), mixture.flow(x, 2.0, 0.3), atol=1e-10, rtol=0)


def test_the_denoiser_of_a_data_set_is_one_image_at_low_noise_and_the_mean_at_high():
    data = start(5, 1, 4, 4, sigma=1.0)
    problem = GaussianMixture(data)
    noise = start(5, 1, 4, 4, sigma=1.0, seed=2)
    torch.testing.assert_close(problem.denoise(data + 0.01 * noise, 0.01), data, atol=1e-12, rtol=0)
    average = data.mean(0, keepdim=True).expand_as(data)
    torch.testing.assert_close(problem.denoise(1e5 * noise, 1e5), average, atol=1e-3, rtol=0)
    recalled = problem.sample(50, torch.Generator().manual_seed(0), torch.float64)
    assert all(any(torch.equal(x, row) for row in data) for x in recalled)


@PROBLEMS
def test_each_image_may_have_a_level_of_its_own(problem):
    x, sigmas = start(3, problem.marginal_mean(0.0).numel(), sigma=2.0), [0.1, 1.0, 9.0]
    for method in (problem.denoise, problem.score):
        together = method(x, torch.tensor(sigmas, dtype=torch.float64))
        alone = torch.cat([method(x[i : i + 1], sigma) for i, sigma in enumerate(sigmas)])
        torch.testing.assert_close(together, alone, atol=1e-12, rtol=1e-12)


def test_a_spectrum_acts_on_each_dimension_by_itself():
    x = start(4, 3, sigma=1.0)
    for i, (std, mean) in enumerate(zip(SPECTRUM.std.tolist(), SPECTRUM.mean.tolist(), strict=True)):
        single = Gaussian(std, mean)
        assert torch.equal(SPECTRUM.denoise(x, 0.6)[:, i], single.denoise(x[:, i], 0.6))
        assert torch.equal(SPECTRUM.flow(x, 0.6, 0.0)[:, i], single.flow(x[:, i], 0.6, 0.0))


def test_float_parameters_keep_their_digits():
    got = Gaussian(std=0.7).denoise(torch.ones(1, dtype=torch.float64), 0.1).item()
    assert got == pytest.approx(0.49 / 0.5, rel=1e-15)
    assert Gaussian(std=0.7).marginal_variance(0.1).item() == pytest.approx(0.5, rel=1e-15)
    assert math.isclose(Gaussian(std=0.7, mean=0.1).marginal_mean(3.0).item(), 0.1, rel_tol=1e-15)


def test_samples_have_the_shape_of_an_image():
    assert Gaussian(std=0.5, mean=torch.zeros(4, 8, 8)).sample(3).shape == (3, 4, 8, 8)
    assert Gaussian().sample(3).shape == (3,)
    assert GaussianMixture(torch.zeros(2, 4, 8, 8)).sample(3).shape == (3, 4, 8, 8)


def test_float32_is_close_to_float64():
    x = start(50, 2, sigma=3.0)
    single = MIXTURE.denoise(x.float(), 0.5)
    assert single.dtype == torch.float32
    np.testing.assert_allclose(single.numpy(), MIXTURE.denoise(x, 0.5).numpy(), atol=1e-5)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"stds": torch.ones(3)}, r"stds must have shape \(2,\), one per mean, got \(3,\)"),
        ({"weights": torch.ones(3)}, r"weights must have shape \(2,\), one per mean, got \(3,\)"),
    ],
)
def test_shapes_that_disagree_are_reported(options, line):
    with pytest.raises(ValueError, match=line):
        GaussianMixture(torch.zeros(2, 5), **options)
