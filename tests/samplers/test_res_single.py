"""RES single-step methods: the tableau of exponential Runge–Kutta methods, its order conditions, and their order."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sampler_problems import MIXTURE, start
from scipy.integrate import quad

import samplers

PLACES = [(0.5, 1.0), (0.3, 0.8), (0.9, 0.4), (0.25, 2 / 3)]


def phi(k, z):
    """φ_k(z) = ∫₀¹ e^{(1−θ)z} θ^{k−1}/(k−1)! dθ (Hochbruck and Ostermann 2005)."""
    return quad(lambda u: math.exp((1 - u) * z) * u ** (k - 1) / math.factorial(k - 1), 0, 1, epsabs=1e-13)[0]


def exponential_runge_kutta(x, sigmas, places, a, b):
    """Any explicit exponential Runge–Kutta method on dx/dλ = −x + D, from its weights a(i, j, h) and b(i, h)."""
    for s, t in pairwise(sigmas):
        h, values = math.log(s / t), []
        for i, c in enumerate(places):
            level = s * math.exp(-c * h)
            inner = sum((h * a(i, j, h) * value for j, value in enumerate(values)), math.exp(-c * h) * x)
            values.append(MIXTURE.denoise(inner, level))
        x = sum((h * b(i, h) * value for i, value in enumerate(values)), math.exp(-h) * x)
    return x


def sample(name, sigmas, **options):
    return samplers.run(samplers.make(name, **options), MIXTURE.denoise, start(3, 2, sigma=sigmas[0]), sigmas)


@pytest.mark.parametrize("c2", [0.3, 0.5, 1.0])
def test_two_stages(c2):
    sigmas = samplers.grid("karras", steps=5, levels=samplers.edm_levels(0.05, 10.0), ending="stop_at_sigma_min")
    second = exponential_runge_kutta(
        start(3, 2, sigma=sigmas[0]),
        sigmas,
        (0.0, c2),
        lambda i, j, h: c2 * phi(1, -c2 * h),
        lambda i, h: phi(2, -h) / c2 if i else phi(1, -h) - phi(2, -h) / c2,
    )
    torch.testing.assert_close(sample("res_2s", sigmas, c2=c2), second, atol=1e-11, rtol=1e-11)


@pytest.mark.parametrize(("c2", "c3"), PLACES)
def test_three_stages(c2, c3):
    gamma = (3 * c3 - 2) * c3 / ((2 - 3 * c2) * c2)
    b2, b3 = gamma / (gamma * c2 + c3), 1 / (gamma * c2 + c3)

    def a(i, j, h):
        inner = gamma * c2 * phi(2, -c2 * h) + c3**2 / c2 * phi(2, -c3 * h)
        return c2 * phi(1, -c2 * h) if i == 1 else inner if j else c3 * phi(1, -c3 * h) - inner

    def b(i, h):
        return (phi(1, -h) - (b2 + b3) * phi(2, -h), b2 * phi(2, -h), b3 * phi(2, -h))[i]

    sigmas = samplers.grid("karras", steps=5, levels=samplers.edm_levels(0.05, 10.0), ending="stop_at_sigma_min")
    third = exponential_runge_kutta(start(3, 2, sigma=sigmas[0]), sigmas, (0.0, c2, c3), a, b)
    torch.testing.assert_close(sample("res_3s", sigmas, c2=c2, c3=c3), third, atol=1e-11, rtol=1e-11)


@settings(max_examples=50, deadline=None)
@given(c2=st.floats(0.05, 0.6), c3=st.floats(0.65, 1.0))
def test_the_weights_of_three_stages_satisfy_the_classical_order_conditions(c2, c3):
    """Σ b c = 1/2, Σ b c² = 1/3 and Σ b a c = 1/6 as h → 0, where φ₁ = 1 and φ₂ = 1/2."""
    gamma = c3 * (3 * c3 - 2) / (c2 * (2 - 3 * c2))
    weight = 0.5 / (gamma * c2 + c3)
    assert weight * (gamma * c2 + c3) == pytest.approx(1 / 2)
    assert weight * (gamma * c2**2 + c3**2) == pytest.approx(1 / 3)
    assert weight * (gamma * c2 + c3**2 / c2) / 2 * c2 == pytest.approx(1 / 6)


def test_the_inner_level_at_the_end_is_the_exponential_heun_method():
    sigmas = samplers.grid("karras", steps=7, levels=samplers.edm_levels(0.05, 10.0))
    assert sample("res_2s", sigmas, c2=1.0).equal(sample("exponential_heun", sigmas))
    assert not torch.allclose(sample("res_2s", sigmas), sample("dpmpp_2s", sigmas), atol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"c2": 2 / 3}, r"RES3S\.c2 must differ from 2/3 by 0\.001 or more"),
        ({"c2": 0.4, "c3": 0.4}, r"RES3S\.c2 and c3 must differ by 0\.001 or more, got 0\.4 and 0\.4"),
        ({"c3": 0.0}, r"RES3S\.c3 must be in \[0\.001, 1\]"),
        ({"c2": 1.5}, r"RES3S\.c2 must be in \[0\.001, 1\]"),
    ],
)
def test_places_without_a_method_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        samplers.make("res_3s", **options)
