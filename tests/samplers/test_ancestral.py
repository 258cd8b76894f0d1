"""The stochastic samplers: the DDPM posterior, the identities between samplers, and the law of the samples."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from sampler_problems import MIXTURE, SD, start

import samplers
from samplers.exact.problems import Gaussian

BETAS = [(math.sqrt(0.00085) + (math.sqrt(0.012) - math.sqrt(0.00085)) * i / 999) ** 2 for i in range(1000)]
BARS = np.cumprod([1 - beta for beta in BETAS])
GRID = samplers.grid("karras", steps=12, levels=SD)


def test_alpha_bar_is_the_product_of_one_minus_beta():
    np.testing.assert_allclose(SD.alpha_bars, BARS, rtol=1e-12)
    np.testing.assert_allclose([samplers.sigma_of(bar) for bar in SD.alpha_bars], SD.sigmas, rtol=1e-10)


def test_adding_noise_step_by_step_gives_the_level_of_the_clock():
    """x_t = √(1−β) x_{t−1} + √β ε, from x_0 fixed: its mean over √ᾱ is x_0, its deviation over √ᾱ is σ_t."""
    mean, variance = 1.0, 0.0
    for t, beta in enumerate(BETAS):
        mean, variance = math.sqrt(1 - beta) * mean, (1 - beta) * variance + beta
        scale = math.sqrt(SD.alpha_bars[t])
        assert mean / scale == pytest.approx(1.0, rel=1e-11)
        assert math.sqrt(variance) / scale == pytest.approx(SD.sigmas[t], rel=1e-11)


# The samplers that draw once per step, and with it all the noise of the reverse SDE.
POSTERIOR = [
    *((name, {}) for name in ("ddpm", "euler_ancestral", "dpm2_ancestral", "dpmpp_2s_ancestral")),
    *((name, {}) for name in ("dpmpp_2m_sde", "dpmpp_3m_sde", "sa_solver")),
    ("ddim", {"eta": 1.0}),
    ("er_sde", {"scale": "sde"}),
]


@pytest.mark.parametrize(("name", "options"), POSTERIOR, ids=str)
@pytest.mark.parametrize("t", [1, 2, 10, 250, 500, 998, 999])
def test_a_full_noise_step_is_the_posterior_of_bayes_rule(name, options, t):
    """q(x_{t−1} | x_t, x_0) by multiplying Gaussian densities in the paper's x_t, against one step of the sampler.

    The likelihood N(x_t; √α x_{t−1}, β) and the prior N(x_{t−1}; √ᾱ⁻ x_0, 1−ᾱ⁻) add their precisions.
    """
    alpha, beta, bar, before = 1 - BETAS[t], BETAS[t], BARS[t], BARS[t - 1]
    x0, x_t, z = torch.tensor([[0.8]]).double(), torch.tensor([[-1.7]]).double(), torch.tensor([[0.6]]).double()
    precision = alpha / beta + 1 / (1 - before)
    mean = (math.sqrt(alpha) / beta * x_t + math.sqrt(before) / (1 - before) * x0) / precision
    expected = mean + z / math.sqrt(precision)

    sigmas = (SD.sigmas[t], SD.sigmas[t - 1])
    got = samplers.run(samplers.make(name, **options), lambda x, s: x0, x_t / math.sqrt(bar), sigmas, noise=lambda x: z)
    torch.testing.assert_close(got * math.sqrt(before), expected, atol=1e-9, rtol=1e-9)

    paper_variance = (1 - before) / (1 - bar) * beta  # Ho, Jain, Abbeel 2020, eq. 7
    assert paper_variance == pytest.approx(1 / precision, rel=1e-9)


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_ddim_is_equation_12_of_its_paper(eta):
    t, s = 700, 420
    bar, before, x_t = BARS[t], BARS[s], start(4, 2, sigma=1.0)
    z = start(4, 2, sigma=1.0, seed=1)
    x0 = MIXTURE.denoise(x_t / math.sqrt(bar), SD.sigmas[t])
    noise = (x_t - math.sqrt(bar) * x0) / math.sqrt(1 - bar)
    sigma_t = eta * math.sqrt((1 - before) / (1 - bar) * (1 - bar / before))
    expected = math.sqrt(before) * x0 + math.sqrt(1 - before - sigma_t**2) * noise + sigma_t * z

    rule, sigmas = samplers.make("ddim", eta=eta), (SD.sigmas[t], SD.sigmas[s])
    got = samplers.run(rule, MIXTURE.denoise, x_t / math.sqrt(bar), sigmas, noise=lambda x: z)
    torch.testing.assert_close(got * math.sqrt(before), expected, atol=1e-10, rtol=1e-10)


def sample(rule, seeds=(3, 4, 5, 6)):
    noise = samplers.seeded(seeds)
    x = noise(torch.empty(len(seeds), 2, dtype=torch.float64)) * GRID[0]
    return samplers.run(rule, MIXTURE.denoise, x, GRID, noise=noise)


def test_ddim_without_noise_is_euler():
    torch.testing.assert_close(sample(samplers.make("ddim")), sample(samplers.make("euler")), atol=1e-12, rtol=0)


def test_full_noise_ddim_ddpm_and_euler_ancestral_are_one():
    ddpm = sample(samplers.make("ddpm"))
    for twin in (samplers.make("ddim", eta=1), samplers.make("euler_ancestral")):
        torch.testing.assert_close(sample(twin), ddpm, atol=1e-12, rtol=0)


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
def test_ddim_and_euler_ancestral_agree_on_eta(eta):
    ours, theirs = (sample(samplers.make(name, eta=eta)) for name in ("ddim", "euler_ancestral"))
    torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=0)


def test_euler_ancestral_never_draws_more_noise_than_the_next_level_holds():
    """Where η asks for more than σ⁺, the state is renewed altogether: x⁺ = x̂₀ + σ⁺ z."""
    x, z = start(3, 2, sigma=2.0), start(3, 2, sigma=1.0, seed=9)
    got = samplers.run(samplers.make("euler_ancestral", eta=5.0), MIXTURE.denoise, x, (2.0, 1.5), noise=lambda x: z)
    torch.testing.assert_close(got, MIXTURE.denoise(x, 2.0) + 1.5 * z, atol=1e-14, rtol=0)


@pytest.mark.parametrize("eta", [0.0, 0.6, 1.0])
@pytest.mark.parametrize(("t", "t_next"), [(0.98, 0.9), (0.5, 0.4), (0.1, 0.03)])
def test_the_flow_clock_is_the_rule_of_rectified_flows(eta, t, t_next):
    """In the x_t = (1 − t) x₀ + t ε of a flow: down to t_down, then the ratio of the signals and noise up to t⁺."""
    x, z = start(3, 2, sigma=t), start(3, 2, sigma=1.0, seed=9)
    x0 = MIXTURE.denoise(x / (1 - t), t / (1 - t))
    down = t_next * (1 + (t_next / t - 1) * eta)
    x_down = down / t * x + (1 - down / t) * x0
    signal = (1 - t_next) / (1 - down)
    expected = signal * x_down + math.sqrt(t_next**2 - (signal * down) ** 2) * z

    sigmas = (t / (1 - t), t_next / (1 - t_next))
    rule = samplers.make("euler_ancestral", eta=eta, clock="flow")
    got = samplers.run(rule, MIXTURE.denoise, x / (1 - t), sigmas, noise=lambda x: z)
    torch.testing.assert_close((1 - t_next) * got, expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("name", ["euler_ancestral", "dpm2_ancestral", "dpmpp_2s_ancestral"])
def test_full_noise_in_the_flow_clock_is_less_than_the_posterior_s_and_the_same_in_the_limit(name):
    """σ_up² against σ⁺² (1 − σ⁺²/σ²): below it in a step, and their ratio tends to 1 linearly in the step."""
    missing = []
    for q in (0.8, 0.9, 0.95):
        one_step = [
            samplers.run(
                samplers.make(name, clock=clock),
                lambda x, s: 0 * x,
                torch.zeros(1, 1).double(),
                (1.0, q),
                noise=torch.ones_like,
            )
            for clock in ("sigma", "flow")
        ]
        sigma, flow = (float(x) ** 2 for x in one_step)
        missing.append(1 - flow / sigma)
    assert missing[0] > missing[1] > missing[2] > 0
    assert missing[1] / missing[2] == pytest.approx(2, rel=0.1)


def test_the_flow_clock_never_goes_below_zero():
    """Where η asks for more than the level has, the state is renewed altogether: x⁺ = x̂₀ + σ⁺ z."""
    x, z = start(3, 2, sigma=2.0), start(3, 2, sigma=1.0, seed=9)
    rule = samplers.make("euler_ancestral", eta=50.0, clock="flow")
    got = samplers.run(rule, MIXTURE.denoise, x, (2.0, 1.5), noise=lambda x: z)
    torch.testing.assert_close(got, MIXTURE.denoise(x, 2.0) + 1.5 * z, atol=1e-14, rtol=0)


# The law of the samples: data N(μ, s²) makes each step affine, m⁺ = μ + a (m − μ) and v⁺ = a² v + b².

MEAN, STD = 0.4, 0.6
DATA = Gaussian(std=STD, mean=MEAN)
RULES = [
    ("ddpm", {}),
    *(("ddim", {"eta": e}) for e in (0.2, 0.7, 1.0)),
    *(("euler_ancestral", {"eta": e}) for e in (0.5, 1.0)),
]


def recursed(sigmas, eta, mean, variance):
    """Mean and variance after the DDIM(η) recursion, from the moments at sigmas[0]."""
    for high, low in pairwise(sigmas):
        gain = STD**2 / (STD**2 + high**2)
        b = eta * math.sqrt(low**2 * (high**2 - low**2)) / high
        a = gain + (1 - gain) * math.sqrt(low**2 - b**2) / high
        mean, variance = MEAN + a * (mean - MEAN), a * a * variance + b * b
    return mean, variance


def response(rule, sigmas, mean, variance):
    """Exact mean and variance of any sampler on Gaussian data, for any number of draws per step.

    The run is affine in the start and the draws, so image 0 starts at the mean, image 1 one deviation above it, and
    image k + 2 is given a unit pulse at draw k; the variance is the sum of the squared responses.
    """
    images = 4 * len(sigmas) + 2
    draws = iter(range(images - 2))
    pulses = torch.eye(images, dtype=torch.float64)
    x = torch.full((images,), mean, dtype=torch.float64)
    x[1] += math.sqrt(variance)
    out = samplers.run(rule, DATA.denoise, x, sigmas, noise=lambda x: pulses[next(draws) + 2])
    return out[0].item(), (out[1:] - out[0]).square().sum().item()


@pytest.mark.parametrize("grid", ["karras", "trailing", "exponential"])
@pytest.mark.parametrize(("name", "options"), RULES, ids=str)
def test_moments_follow_the_recursion_exactly(name, options, grid):
    rule, sigmas = samplers.make(name, **options), samplers.grid(grid, steps=9, levels=SD)
    expected = recursed(sigmas, options.get("eta", 1.0), 0.0, sigmas[0] ** 2)
    assert response(rule, sigmas, 0.0, sigmas[0] ** 2) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("grid", ["karras", "linspace"])
@pytest.mark.parametrize(("name", "options"), RULES, ids=str)
def test_sample_moments_lie_within_four_standard_errors(name, options, grid):
    n = 40_000
    rule = samplers.make(name, **options)
    sigmas = samplers.grid(grid, steps=8, levels=SD, ending="stop_at_sigma_min")
    noise = samplers.seeded([11])
    x = noise(torch.empty(1, n, dtype=torch.float64)) * sigmas[0]
    got = samplers.run(rule, DATA.denoise, x, sigmas, noise=noise)
    mean, variance = recursed(sigmas, options.get("eta", 1.0), 0.0, sigmas[0] ** 2)
    assert abs(got.mean().item() - mean) < 4 * math.sqrt(variance / n)
    assert abs(got.var().item() - variance) < 4 * variance * math.sqrt(2 / (n - 1))
