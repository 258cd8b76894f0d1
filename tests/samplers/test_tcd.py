"""TCD: DDIM and LCM at the ends of γ, the law of its samples, and diffusers' scheduler with the same noise."""

import math
from itertools import pairwise

import pytest
import torch
from sampler_problems import MIXTURE, SD, start

import samplers
from samplers.exact.problems import Gaussian

GRID = samplers.grid("trailing", steps=8, levels=SD)
NOISE = range(3)


def sample(name, sigmas=GRID, denoise=MIXTURE.denoise, **options):
    rule = samplers.make(name, **options).with_levels(SD)
    return samplers.run(rule, denoise, start(3, 2, sigma=sigmas[0]), sigmas, noise=samplers.seeded(NOISE))


def test_without_noise_it_is_ddim():
    assert sample("tcd", gamma=0.0).equal(sample("ddim"))
    assert not samplers.make("tcd", gamma=0.0).stochastic


def test_with_all_the_noise_it_is_lcm_but_for_the_lowest_level():
    """γ = 1 denoises to timestep 0, whose σ is small and not 0."""
    lowest = SD.sigmas[0]
    x, sigma, sigma_next = start(3, 2, sigma=GRID[0]), GRID[0], GRID[1]
    [z] = [samplers.seeded(NOISE)(x)]
    x0 = MIXTURE.denoise(x, sigma)
    expected = x0 + lowest * (x - x0) / sigma + math.sqrt(sigma_next**2 - lowest**2) * z
    torch.testing.assert_close(sample("tcd", GRID[:2], gamma=1.0), expected, atol=1e-12, rtol=1e-12)
    assert lowest < 0.03


@pytest.mark.parametrize(
    "levels", [SD, samplers.flow_levels(), samplers.edm_levels(), samplers.continuous_levels(1e-3, 80)]
)
@pytest.mark.parametrize("gamma", [0.1, 0.3, 1.0])
def test_data_at_one_point_keep_their_marginals(gamma, levels):
    """x₀ = 0 makes D = 0; then a step from N(0, σ²) ends at N(0, σ⁺²): σ_s² of the old noise and the rest new."""
    rule = samplers.make("tcd", gamma=gamma).with_levels(levels)
    unit = torch.ones(1, 1, dtype=torch.float64)
    for sigma, sigma_next in ((5.0, 4.9), (5.0, 0.7), (0.7, 0.1)):
        kept, _ = rule.step(lambda x, s: torch.zeros_like(x), sigma * unit, sigma, sigma_next, None, torch.zeros_like)
        both, _ = rule.step(lambda x, s: torch.zeros_like(x), sigma * unit, sigma, sigma_next, None, torch.ones_like)
        assert float(kept**2 + (both - kept) ** 2) == pytest.approx(sigma_next**2, rel=1e-12)
        assert 0 <= float(kept) < sigma_next


def test_more_steps_do_not_help_a_posterior_mean():
    """On standard normal data every step is x⁺ = k x + w z, and the spread stays below 1: no order is claimed."""
    problem, one = Gaussian(std=torch.ones(1), mean=torch.zeros(1)), torch.ones(1, 1, dtype=torch.float64)
    rule = samplers.make("tcd", gamma=0.5).with_levels(SD)
    for steps in (100, 500):
        sigmas = samplers.grid("trailing", steps=steps, levels=SD)
        variance = sigmas[0] ** 2
        for sigma, sigma_next in pairwise(sigmas):
            k, kw = (
                float(rule.step(problem.denoise, one, sigma, sigma_next, None, z)[0])
                for z in (torch.zeros_like, torch.ones_like)
            )
            variance = k**2 * variance + (kw - k) ** 2
        assert variance < 0.85
    assert rule.order == 0
    assert samplers.make("tcd", gamma=0.0).order == 1


@pytest.mark.parametrize("gamma", [0.0, 0.3, 0.7])
def test_it_is_diffusers_scheduler_with_the_same_noise(gamma, monkeypatch):
    module = pytest.importorskip("diffusers.schedulers.scheduling_tcd")
    scheduler = module.TCDScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
    times = [999, 700, 400, 123, 20]
    scheduler.set_timesteps(timesteps=times)
    draws = iter(torch.randn(len(times), 3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))
    kept = list(draws)
    theirs_draws, ours_draws = iter(kept), iter(kept)
    monkeypatch.setattr(module, "randn_tensor", lambda *_, **__: next(theirs_draws))
    sigmas = [SD.sigmas[t] for t in times]
    x = start(3, 2, sigma=sigmas[0])
    theirs, states = x / math.sqrt(1 + sigmas[0] ** 2), []
    for t, sigma in zip(times, sigmas, strict=True):
        alpha = 1 / math.sqrt(1 + sigma**2)
        eps = (theirs / alpha - MIXTURE.denoise(theirs / alpha, sigma)) / sigma
        theirs = scheduler.step(eps, t, theirs, eta=gamma).prev_sample
        states.append(theirs)
    rule = samplers.make("tcd", gamma=gamma).with_levels(SD)
    ours = []
    samplers.run(
        rule, MIXTURE.denoise, x, sigmas, noise=lambda like: next(ours_draws), on_step=lambda i, x: ours.append(x)
    )
    for state, other, sigma in zip(ours, states, sigmas[1:], strict=False):
        torch.testing.assert_close(state / math.sqrt(1 + sigma**2), other, atol=2e-5, rtol=2e-5)
