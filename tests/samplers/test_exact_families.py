"""Any covariance, classes and sets of pictures, against definitions."""

import math

import pytest
import torch
from sampler_problems import MIXTURE, start
from torch.distributions import MultivariateNormal

from samplers.exact.families import NO_CLASS, ClassMixture, RotatedGaussian, data_set
from samplers.exact.problems import Gaussian, GaussianMixture

COVARIANCE = torch.tensor([[1.3, 0.4, -0.2], [0.4, 0.6, 0.1], [-0.2, 0.1, 0.3]], dtype=torch.float64)
MEAN = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64)
TILTED = RotatedGaussian.of_covariance(COVARIANCE, MEAN)
CLASSES = ClassMixture(MIXTURE, (0, 4, 0))
SIGMAS = pytest.mark.parametrize("sigma", [0.05, 0.8, 12.0])


@SIGMAS
def test_a_tilted_gaussian_has_the_score_of_its_covariance(sigma):
    x = start(7, 3, sigma=2.0).requires_grad_()
    law = MultivariateNormal(MEAN, COVARIANCE + sigma**2 * torch.eye(3, dtype=torch.float64))
    (gradient,) = torch.autograd.grad(law.log_prob(x).sum(), x)
    torch.testing.assert_close(TILTED.score(x, sigma), gradient, atol=1e-10, rtol=1e-10)
    torch.testing.assert_close(TILTED.denoise(x, sigma), x + sigma**2 * gradient, atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(TILTED.marginal_mean(sigma), law.mean, atol=1e-12, rtol=0)
    torch.testing.assert_close(TILTED.marginal_covariance(sigma), law.covariance_matrix, atol=1e-12, rtol=0)
    torch.testing.assert_close(TILTED.marginal_variance(sigma), law.variance, atol=1e-9, rtol=0)


def test_the_tilted_flow_moves_along_the_score_and_carries_law_to_law():
    x, sigma, h = start(5, 3, sigma=2.0), 2.0, 1e-4
    slope = (TILTED.flow(x, sigma, sigma + h) - TILTED.flow(x, sigma, sigma - h)) / (2 * h)
    torch.testing.assert_close(slope, -sigma * TILTED.score(x, sigma), atol=1e-7, rtol=1e-7)
    eye = torch.eye(3, dtype=torch.float64)
    jacobian = TILTED.flow(eye, 3.0, 0.0) - TILTED.flow(torch.zeros_like(eye), 3.0, 0.0)
    moved = jacobian.T @ TILTED.marginal_covariance(3.0) @ jacobian
    torch.testing.assert_close(moved, COVARIANCE, atol=1e-10, rtol=0)


def test_tilted_samples_have_the_covariance():
    n = 40_000
    x = TILTED.sample(n, torch.Generator().manual_seed(0), torch.float64)
    bound = 4 * ((COVARIANCE.diagonal()[:, None] * COVARIANCE.diagonal() + COVARIANCE**2) / n).sqrt()
    assert ((x.T.cov() - COVARIANCE).abs() < bound).all()
    assert ((x.mean(0) - MEAN).abs() < 4 * (COVARIANCE.diagonal() / n).sqrt()).all()


def test_a_diagonal_covariance_is_a_spectrum():
    plain = Gaussian(torch.tensor([0.2, 0.7], dtype=torch.float64), torch.tensor([1.0, 0.0], dtype=torch.float64))
    tilted = RotatedGaussian.of_covariance(torch.diag(plain.std**2), plain.mean)
    x = start(4, 2, sigma=3.0)
    torch.testing.assert_close(tilted.denoise(x, 0.6), plain.denoise(x, 0.6), atol=1e-12, rtol=0)
    torch.testing.assert_close(tilted.flow(x, 3.0, 0.0), plain.flow(x, 3.0, 0.0), atol=1e-12, rtol=0)


@SIGMAS
def test_bayes_rule_joins_the_classes(sigma):
    """D(x) = Σ_c p(c | x) D(x | c), and p(c | x) ∝ p(c) p(x | c)."""
    x = start(20, 2, sigma=max(sigma, 1.0))
    share = CLASSES.class_given(x, sigma)
    torch.testing.assert_close(share.sum(1), torch.ones(20, dtype=torch.float64), atol=1e-12, rtol=0)
    parts = torch.stack([CLASSES.given(label).denoise(x, sigma) for label in (0, 4)], 1)
    torch.testing.assert_close((share[..., None] * parts).sum(1), CLASSES.denoise(x, sigma), atol=1e-10, rtol=1e-10)

    variance = torch.tensor([0.3, 0.5, 0.4]).double() ** 2 + sigma**2
    gap = (x[:, None] - MIXTURE.means).square().sum(2)
    density = torch.tensor([0.5, 0.2, 0.3]).double() * torch.exp(-gap / (2 * variance)) / variance
    expected = density[:, 1] / density.sum(1)
    torch.testing.assert_close(share[:, 1], expected, atol=1e-6, rtol=1e-6)


def test_each_image_may_ask_for_its_own_class():
    x = start(4, 2, sigma=2.0)
    labels = torch.tensor([[0], [4], [NO_CLASS], [0]])
    together = CLASSES(x, 0.7, labels)
    alone = [CLASSES.given(label).denoise(x[i : i + 1], 0.7) for i, label in enumerate((0, 4, NO_CLASS, 0))]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-12, rtol=0)
    levels = torch.tensor([0.1, 0.5, 1.0, 3.0]).double()
    apart = [CLASSES(x[i : i + 1], levels[i].item(), labels[i : i + 1]) for i in range(4)]
    torch.testing.assert_close(CLASSES(x, levels, labels), torch.cat(apart), atol=1e-12, rtol=0)


def test_a_class_of_one_component_is_a_gaussian():
    x, k = start(6, 2, sigma=2.0), 1
    gaussian = Gaussian(MIXTURE.stds[k].item(), MIXTURE.means[k])
    torch.testing.assert_close(CLASSES.given(4).denoise(x, 0.9), gaussian.denoise(x, 0.9), atol=1e-12, rtol=0)


PICTURES = start(6, 1, 4, 4, sigma=1.0)


def test_the_flow_of_a_set_of_pictures_ends_at_one_of_them():
    x = start(9, 1, 4, 4, sigma=5.0, seed=3)
    ends = data_set(PICTURES).flow(x, 5.0, 0.0)
    gaps = torch.cdist(ends.flatten(1), PICTURES.flatten(1)).min(1).values
    assert gaps.max() < 1e-9
    assert len({tuple(end.flatten().tolist()) for end in ends.round(decimals=6)}) > 1


def test_the_flow_of_a_set_is_a_group_down_to_zero():
    x, problem = start(9, 1, 4, 4, sigma=5.0, seed=3), data_set(PICTURES)
    halfway = problem.flow(x, 5.0, 0.4)
    torch.testing.assert_close(problem.flow(halfway, 0.4, 0.0), problem.flow(x, 5.0, 0.0), atol=1e-8, rtol=0)
    torch.testing.assert_close(problem.flow(halfway, 0.4, 5.0), x, atol=1e-8, rtol=1e-8)


def test_a_set_of_one_picture_is_a_point():
    problem, x = data_set(PICTURES[:1]), start(3, 1, 4, 4, sigma=5.0)
    torch.testing.assert_close(problem.flow(x, 5.0, 0.0), PICTURES[:1].expand(3, 1, 4, 4), atol=1e-12, rtol=0)
    line = PICTURES[:1] + (0.5 / 5.0) * (x - PICTURES[:1])
    torch.testing.assert_close(problem.flow(x, 5.0, 0.5), line, atol=1e-9, rtol=0)


def test_the_denoiser_of_a_large_set_keeps_its_digits_near_the_data():
    """Distances by way of |x|² − 2 x·μ + |μ|² would lose them against σ²."""
    far = 1000.0 + start(2000, 3, sigma=1.0)
    x, sigma = far[:5] + 1e-3 * start(5, 3, sigma=1.0, seed=8), 1e-3
    near = torch.cdist(x, far, compute_mode="donot_use_mm_for_euclid_dist").argmin(1)
    torch.testing.assert_close(data_set(far).denoise(x, sigma), far[near], atol=1e-9, rtol=0)


@pytest.mark.parametrize(
    ("slip", "line"),
    [
        (lambda: RotatedGaussian.of_covariance(torch.ones(2, 3)), "must be a symmetric matrix, got shape (2, 3)"),
        (lambda: RotatedGaussian.of_covariance(torch.tensor([[1.0, 2.0], [2.0, 1.0]])), "negative eigenvalue, got -1"),
        (lambda: ClassMixture(MIXTURE, (0, 1)), "there must be one label per component, got 2"),
        (lambda: ClassMixture(MIXTURE, (0, -1, 1)), "labels must be integers of at least 0, got -1"),
        (lambda: CLASSES.given(1), "there is no class 1; classes: 0, 4"),
        (lambda: GaussianMixture(torch.zeros(2, 5), torch.ones(3)), "stds must have shape (2,)"),
    ],
)
def test_a_mistake_is_reported_in_one_line(slip, line):
    with pytest.raises(ValueError) as caught:
        slip()
    assert line in str(caught.value)


def test_weights_of_classes_are_their_probability():
    sigma = 1e4  # where x says nothing of its class
    share = CLASSES.class_given(torch.zeros(1, 2, dtype=torch.float64), sigma)
    assert math.isclose(share[0, 0].item(), 0.8, rel_tol=1e-6)
