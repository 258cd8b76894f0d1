"""Inversion of DDIM: its closed form on a Gaussian, its order, and the exact inverse that refinements converge to."""

from itertools import pairwise

import pytest
import torch
from sampler_problems import MIXTURE, SPECTRUM, Counting, start

import samplers
from samplers.exact.problems import Gaussian

LEVELS = samplers.continuous_levels(0.02, 10)


def even(steps):
    """Even in log σ."""
    return samplers.grid("exponential", steps=steps, levels=LEVELS, ending="stop_at_sigma_min")


def network(x, sigma):
    """A random network with tanh, preconditioned for data of variance 1 as in EDM."""
    generator = torch.Generator().manual_seed(1)
    into, out = (torch.randn(3, 3, generator=generator, dtype=torch.float64) / 3 for _ in range(2))
    scale = 1 + sigma**2
    return x / scale + sigma / scale**0.5 * torch.tanh(x / scale**0.5 @ into) @ out


PROBLEMS = {"gaussian": (SPECTRUM.denoise, 3), "mixture": (MIXTURE.denoise, 2), "network": (network, 3)}


def refined(refinements):
    """DDIM whose inversion has so many refinements."""
    return samplers.make("ddim", refinements=refinements)


def drawn(denoise, width, sigmas, n=5):
    """Samples that DDIM draws, and their noise."""
    noise = start(n, width, sigma=sigmas[0])
    return noise, samplers.run(samplers.make("ddim"), denoise, noise, sigmas)


@pytest.mark.parametrize(("denoise", "width"), PROBLEMS.values(), ids=PROBLEMS)
def test_refinements_return_the_very_noise_of_a_picture(denoise, width):
    sigmas = even(40)
    noise, x = drawn(denoise, width, sigmas)
    found = samplers.invert(refined(40), denoise, x, sigmas)[0]
    torch.testing.assert_close(found, noise, rtol=1e-11, atol=1e-11)
    assert samplers.round_trip_error(refined(40), denoise, x, sigmas).max() < 1e-12


@pytest.mark.parametrize(("denoise", "width"), PROBLEMS.values(), ids=PROBLEMS)
def test_the_round_trip_error_falls_at_first_order(denoise, width):
    _, x = drawn(denoise, width, even(160))
    coarse, fine = (
        samplers.round_trip_error(refined(0), denoise, x, even(steps)).mean().log2() for steps in (320, 640)
    )
    assert float(coarse - fine) == pytest.approx(1, abs=0.1)


def test_each_refinement_makes_a_small_step_more_exact():
    """On N(0, 1) data ε̂ = σ x/(1 + σ²), so each one multiplies the error by (σ⁺ − σ) σ/(1 + σ²), here −0.05."""
    above, below = 1.0, 0.9
    denoise = Gaussian(std=torch.ones(1, dtype=torch.float64)).denoise
    noise, x = drawn(denoise, 1, (above, below), n=1)
    errors = [float(samplers.invert(refined(k), denoise, x, (above, below))[0] - noise) for k in range(4)]
    for before, after in pairwise(errors):
        assert after / before == pytest.approx((above - below) * above / (1 + above**2))


def test_without_refinements_a_step_is_that_of_euler_upwards():
    x = start(4, 2, sigma=1.0)
    slope = (x - MIXTURE.denoise(x, 0.5)) / 0.5
    torch.testing.assert_close(samplers.invert(refined(0), MIXTURE.denoise, x, (0.8, 0.5))[0], x + 0.3 * slope)


@pytest.mark.parametrize(("refinements", "levels"), [(0, [0.5, 0.8]), (2, [0.5, 0.8, 0.8, 0.8, 1.0, 1.0])])
def test_calls_and_their_levels(refinements, levels):
    counting = Counting(MIXTURE.denoise)
    samplers.invert(refined(refinements), counting, start(1, 2, sigma=1.0), (1.0, 0.8, 0.5))
    assert counting.levels == levels


def test_float32_and_the_picture_itself_stay():
    x = start(2, 2, sigma=1.0).half()
    kept = x.clone()
    assert samplers.invert(refined(0), MIXTURE.denoise, x, even(2))[0].dtype == torch.float32
    assert x.equal(kept)


@pytest.mark.parametrize(
    ("sigmas", "refinements", "message"),
    [
        ((1.0, 0.0), 0, "ends above 0"),
        ((0.5, 1.0), 0, "strictly decreasing"),
        ((), 0, "strictly decreasing"),
        ((1.0, 0.5), -1, "refinements must be an integer of at least 0"),
    ],
)
def test_bad_input_is_an_error(sigmas, refinements, message):
    with pytest.raises(ValueError, match=message):
        samplers.invert(refined(refinements), MIXTURE.denoise, torch.ones(1, 2), sigmas)


@pytest.mark.parametrize("name", sorted(samplers.SAMPLERS))
def test_the_samplers_that_can_be_inverted(name):
    assert samplers.is_invertible(samplers.make(name)) == (name in {"bdia", "belm", "ddim", "edict"})


@pytest.mark.parametrize("options", [{"eta": 0.5}, {"clip": 1.0}])
def test_ddim_with_noise_or_limits_cannot_be_inverted(options):
    with pytest.raises(ValueError, match="cannot be inverted; belm, bdia, edict and ddim"):
        samplers.invert(samplers.make("ddim", **options), MIXTURE.denoise, torch.ones(1, 2), (1.0, 0.5))


def test_whole_numbers_are_not_pictures():
    with pytest.raises(ValueError, match="floating-point"):
        samplers.invert(refined(0), MIXTURE.denoise, torch.ones(1, 2, dtype=torch.long), (1.0, 0.5))
