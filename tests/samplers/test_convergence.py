"""Every deterministic rule converges to the exact probability flow, at the order it claims."""

import math

import numpy as np
import pytest
import torch
from sampler_problems import DETERMINISTIC, MIXTURE, SD, SPECTRUM, start

import samplers

TOP, LOW = 10.0, 0.02
STEPS = (64, 128, 256)
LEVELS = samplers.continuous_levels(LOW, TOP)


def errors(rule, problem, grid):
    """RMS distance to the exact flow, for each number of steps."""
    x = start(6, *problem.marginal_mean(TOP).shape, sigma=TOP)
    exact = problem.flow(x, TOP, LOW)
    sigmas = (samplers.grid(grid, steps=n, levels=LEVELS, ending="stop_at_sigma_min") for n in STEPS)
    return [(samplers.run(rule, problem.denoise, x, s) - exact).square().mean().sqrt().item() for s in sigmas]


@pytest.mark.parametrize("grid", ["karras", "exponential"])
@pytest.mark.parametrize("problem", [SPECTRUM, MIXTURE], ids=["gaussian", "mixture"])
@pytest.mark.parametrize("name", DETERMINISTIC)
def test_error_shrinks_at_the_order_the_rule_claims(name, problem, grid):
    rule = samplers.make(name)
    slope = np.polyfit(np.log(STEPS), np.log(errors(rule, problem, grid)), 1)[0]
    assert -slope == pytest.approx(rule.order, abs=0.15)


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_many_steps_reach_the_exact_sample(name):
    """On Stable Diffusion's levels, where Euler's step from 0.029 to 0 leaves (0.029/std)²/2 whatever the order."""
    x = start(4, 3, sigma=SD.sigma_max)
    got = samplers.run(samplers.make(name), SPECTRUM.denoise, x, samplers.grid("karras", steps=1000, levels=SD))
    torch.testing.assert_close(got, SPECTRUM.flow(x, SD.sigma_max, 0.0), atol=0.0, rtol=0.01)


@pytest.mark.parametrize("name", samplers.SAMPLERS)
@pytest.mark.parametrize("grid", samplers.GRIDS)
def test_a_point_mass_is_hit_in_one_step(name, grid):
    """D(x, σ) = μ is exact for data at one point, and then any single step to zero is exact too."""
    point = torch.tensor([[0.3, -2.0, 5.0]])
    sigmas = samplers.grid(grid, steps=1, levels=SD)
    x = start(1, 3, sigma=sigmas[0]).float()
    got = samplers.run(samplers.make(name), lambda x, sigma: point, x, sigmas, noise=samplers.seeded([0]))
    assert torch.equal(got, point)


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_a_rule_is_exact_where_the_denoiser_is_constant(name):
    """x̂₀ constant makes the flow a straight line in (x, σ): x⁺ = x̂₀ + (σ⁺/σ)(x − x̂₀), for every rule and step."""
    point, sigmas = torch.tensor([0.3, -2.0, 5.0], dtype=torch.float64), (7.0, 3.0, 2.5, 0.1)
    x = start(2, 3, sigma=7.0)
    got = samplers.run(samplers.make(name), lambda x, sigma: point.expand_as(x), x, sigmas)
    torch.testing.assert_close(got, point + 0.1 / 7.0 * (x - point), atol=1e-12, rtol=0)


class VP:
    """The variance-preserving process β(t) = 0.1 + 19.9 t of Song et al. 2021: x_t = α(t) x₀ + σ(t) ε."""

    @staticmethod
    def alpha(t):
        return math.exp(-(0.1 * t + 19.9 * t * t / 2) / 2)

    def sigma(self, t):
        return math.sqrt(-math.expm1(-(0.1 * t + 19.9 * t * t / 2)))

    def lam(self, t):
        return math.log(self.alpha(t) / self.sigma(t))


def algorithm_2(model, x, times, vp):
    """DPM-Solver++(2M) as the paper prints it, in α and σ of a VP process (Lu et al. 2022, arXiv:2211.01095)."""
    older, newer = None, model(x, times[0])
    for i in range(1, len(times)):
        here, there = times[i - 1], times[i]
        h = vp.lam(there) - vp.lam(here)
        d = newer
        if older is not None:
            r = (vp.lam(here) - vp.lam(times[i - 2])) / h
            d = (1 + 1 / (2 * r)) * newer - 1 / (2 * r) * older
        x = vp.sigma(there) / vp.sigma(here) * x - vp.alpha(there) * (math.exp(-h) - 1) * d
        older, newer = newer, model(x, there)
    return x


@pytest.mark.parametrize("steps", [1, 2, 7, 20])
def test_dpmpp_2m_is_the_papers_algorithm_on_a_vp_process(steps):
    vp, times = VP(), np.linspace(1.0, 0.01, steps + 1).tolist()
    sigmas = [vp.sigma(t) / vp.alpha(t) for t in times]
    x = start(5, 2, sigma=1.0)
    theirs = algorithm_2(lambda x, t: MIXTURE.denoise(x / vp.alpha(t), vp.sigma(t) / vp.alpha(t)), x, times, vp)
    ours = samplers.run(samplers.make("dpmpp_2m"), MIXTURE.denoise, x / vp.alpha(1.0), sigmas)
    torch.testing.assert_close(ours * vp.alpha(0.01), theirs, atol=1e-11, rtol=1e-11)


def test_heun_is_the_trapezoidal_rule_written_out():
    sigma, down, x = 3.0, 1.2, start(5, 2, sigma=3.0)
    d = (x - MIXTURE.denoise(x, sigma)) / sigma
    guess = x + (down - sigma) * d
    d_next = (guess - MIXTURE.denoise(guess, down)) / down
    expected = x + (down - sigma) * (d + d_next) / 2
    got = samplers.run(samplers.make("heun"), MIXTURE.denoise, x, (sigma, down))
    torch.testing.assert_close(got, expected, atol=1e-13, rtol=0)
