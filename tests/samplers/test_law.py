"""The exact law of a sampler's output: against its own recursion, against many samples, on Brownian paths."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from sampler_problems import DETERMINISTIC, SD, SPECTRUM, STOCHASTIC

import samplers
from samplers.denoiser import Unguided
from samplers.exact.law import Law, NoLawError, distance, law, laws, marginal, noise_at, strong_errors
from samplers.exact.problems import Gaussian

WIDE = Gaussian(torch.tensor([0.2, 0.7, 1.9]).double(), torch.tensor([0.5, -1.0, 0.0]).double())
LEVELS = samplers.continuous_levels(0.02, 10.0)
ADAPTIVE = [name for name in samplers.SAMPLERS if samplers.make(name).nfe((2.0, 1.0, 0.5)) is None]


def grid(steps, name="karras"):
    return samplers.grid(name, steps=steps, levels=LEVELS, ending="stop_at_sigma_min")


def test_ddim_follows_its_recursion():
    """m⁺ = μ + a (m − μ) and v⁺ = a² v + b², at every level."""
    eta, sigmas = 0.6, samplers.grid("trailing", steps=7, levels=SD)
    start = noise_at(WIDE, sigmas[0])
    mean, variance = start.mean, start.variance
    found = laws(samplers.make("ddim", eta=eta), WIDE, sigmas, start)
    assert len(found) == 7
    for (high, low), got in zip(pairwise(sigmas), found, strict=True):
        gain = WIDE.std**2 / (WIDE.std**2 + high**2)
        b = eta * math.sqrt(low**2 * (high**2 - low**2)) / high
        a = gain + (1 - gain) * math.sqrt(low**2 - b**2) / high
        mean, variance = WIDE.mean + a * (mean - WIDE.mean), a * a * variance + b * b
        torch.testing.assert_close(got.mean, mean, atol=1e-10, rtol=1e-10)
        torch.testing.assert_close(got.variance, variance, atol=1e-12, rtol=1e-10)


@pytest.mark.parametrize("name", sorted(set(STOCHASTIC) | {"heun", "dpmpp_2m"}))
def test_many_samples_have_the_law(name):
    """Means and variances of 20,000 samples lie within 4.5 standard errors of the law."""
    rule, n, sigmas = samplers.make(name), 20_000, grid(6)
    noise = samplers.seeded([5])
    x = noise(torch.empty(1, n, 3, dtype=torch.float64))[0] * sigmas[0]

    def draw(like):
        return noise(like[None])[0]

    got = samplers.run(rule, Unguided(WIDE.denoise), x, sigmas, noise=draw)
    expected = law(rule, WIDE, sigmas, noise_at(WIDE, sigmas[0]))
    assert ((got.mean(0) - expected.mean).abs() < 4.5 * (expected.variance / n).sqrt()).all()
    assert ((got.var(0) - expected.variance).abs() < 4.5 * expected.variance * math.sqrt(2 / n)).all()


@pytest.mark.parametrize("name", sorted(set(DETERMINISTIC) - set(ADAPTIVE)))
def test_a_deterministic_sampler_maps_the_start_linearly(name):
    """Its law is that of x_N = c + A x, read off two runs of single images."""
    rule, sigmas = samplers.make(name), grid(5)
    start = marginal(WIDE, sigmas[0])
    both = torch.stack([start.mean, start.mean + start.variance.sqrt()])
    ends = torch.cat([samplers.run(rule, Unguided(WIDE.denoise), one[None], sigmas) for one in both])
    got = law(rule, WIDE, sigmas)
    torch.testing.assert_close(got.mean, ends[0], atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(got.variance, (ends[1] - ends[0]) ** 2, atol=1e-12, rtol=1e-9)


@pytest.mark.parametrize("name", ["ddim", "ddpm", "dpmpp_2m"])
def test_the_law_converges_to_the_data_at_the_order_claimed(name):
    rule, steps = samplers.make(name), (64, 256)
    gaps = [distance(rule, WIDE, grid(n)) for n in steps]
    assert -np.polyfit(np.log(steps), np.log(gaps), 1)[0] == pytest.approx(rule.order, abs=0.15)


def test_the_start_is_part_of_the_error():
    """From N(0, σ²) instead of the marginal the exact flow is left with a mean and a variance that are wrong."""
    sigmas = grid(400)
    start = noise_at(WIDE, sigmas[0])
    exact = (WIDE.std**2 + sigmas[-1] ** 2) / (WIDE.std**2 + sigmas[0] ** 2)
    got = law(samplers.make("dpm_3s"), WIDE, sigmas, start)
    torch.testing.assert_close(got.variance, exact * sigmas[0] ** 2, atol=0, rtol=1e-6)
    torch.testing.assert_close(got.mean, WIDE.mean * (1 - exact.sqrt()), atol=1e-7, rtol=0)


def test_distance_is_wassersteins():
    one = Law(torch.tensor([0.0, 1.0]).double(), torch.tensor([1.0, 4.0]).double())
    other = Law(torch.tensor([3.0, 1.0]).double(), torch.tensor([9.0, 0.0]).double())
    assert one.distance(other) == pytest.approx(math.sqrt(9 + 4 + 4))
    assert one.distance(one) == 0


def test_an_adaptive_sampler_has_no_law():
    assert ADAPTIVE
    for name in ADAPTIVE:
        with pytest.raises(NoLawError, match="is adaptive, so its samples"):
            law(samplers.make(name), SPECTRUM, grid(5))


def test_a_sampler_that_is_not_linear_has_no_law():
    class Clipped(samplers.SAMPLERS["euler"]):
        def step(self, denoise, x, sigma, sigma_next, memory, noise):
            x, memory = super().step(denoise, x, sigma, sigma_next, memory, noise)
            return x.clamp(-1, 1), memory

    with pytest.raises(NoLawError, match="is not linear in x and its noise"):
        law(Clipped(), WIDE, grid(5))


# Brownian paths.


@pytest.mark.parametrize("name", ["ddpm", "dpmpp_sde", "seeds_2"])
def test_the_law_on_a_path_is_that_of_samples_on_paths(name):
    rule, n, sigmas = samplers.make(name), 20_000, grid(5)
    noise = samplers.brownian_path([4])  # one image of n independent triples
    x = noise(torch.empty(1, n, 3, dtype=torch.float64)) * sigmas[0]
    got = samplers.run(rule, WIDE.denoise, x, sigmas, noise=noise)[0]
    expected = law(rule, WIDE, sigmas, noise_at(WIDE, sigmas[0]), path=True)
    assert ((got.mean(0) - expected.mean).abs() < 4.5 * (expected.variance / n).sqrt()).all()
    assert ((got.var(0) - expected.variance).abs() < 4.5 * expected.variance * math.sqrt(2 / n)).all()


def test_overlapping_draws_are_one_path_only_on_a_path():
    """The published DPM++ SDE draws for half a step and for the whole: with fresh noise its law is another."""
    rule, sigmas = samplers.make("dpmpp_sde", variant="published"), grid(12)
    fresh, path = (law(rule, WIDE, sigmas, path=on_path) for on_path in (False, True))
    right = law(samplers.make("dpmpp_sde"), WIDE, sigmas)
    assert path.distance(right) < 1e-9
    assert fresh.distance(right) > 1e-3


def test_the_strong_error_is_that_of_pictures_on_one_path():
    n, coarse, fine = 20_000, grid(8), grid(40)
    rule = samplers.make("ddpm")
    ends = []
    for sigmas in (coarse, fine):
        noise = samplers.brownian_path([4])
        x = noise(torch.empty(1, n, 3, dtype=torch.float64)) * sigmas[0]
        ends.append(samplers.run(rule, WIDE.denoise, x, sigmas, noise=noise)[0])
    squared = (ends[0] - ends[1]).square().sum(1)
    (expected,) = strong_errors(rule, WIDE, [coarse], fine, noise_at(WIDE, coarse[0]))
    assert abs(squared.mean().item() - expected**2) < 4 * squared.std().item() / math.sqrt(n)


def test_ddpm_converges_path_by_path_at_first_order():
    """Additive noise: Euler's method has strong order 1."""
    steps = (16, 64)
    gaps = strong_errors(samplers.make("ddpm"), WIDE, [grid(n) for n in steps], grid(512))
    assert -np.polyfit(np.log(steps), np.log(gaps), 1)[0] == pytest.approx(1, abs=0.2)
