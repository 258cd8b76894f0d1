"""Published code that differs from the mathematics: the measured order and error of each variant."""

import math
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
import torch
from sampler_problems import MIXTURE, SPECTRUM, start
from scipy.integrate import quad

import samplers
from samplers.ipndm import published_weights

TOP, LOW = 10.0, 0.02
LEVELS = samplers.continuous_levels(LOW, TOP)


@cache
def the_flow(problem):
    x = start(6, *problem.marginal_mean(TOP).shape, sigma=TOP)
    return x, problem.flow(x, TOP, LOW)


def errors(rule, problem, grids):
    x, exact = the_flow(problem)
    ends = [samplers.run(rule, problem.denoise, x, sigmas) for sigmas in grids]
    return [(end - exact).square().mean().sqrt().item() for end in ends]


def order(errors, steps):
    return -np.polyfit(np.log(steps), np.log(errors), 1)[0]


def karras(steps):
    return samplers.grid("karras", steps=steps, levels=LEVELS, ending="stop_at_sigma_min")


@pytest.mark.parametrize("problem", [SPECTRUM, MIXTURE], ids=["gaussian", "mixture"])
@pytest.mark.parametrize("name", ["dpm_3m", "dpmpp_3m"])
def test_the_factor_two_is_an_order(name, problem):
    """The same starts, grids and calls: 2 φ₃ D″ is of third order, φ₃ D″ of second, with ten times the error."""
    steps = (256, 1024)
    grids = [samplers.eased(karras(n)) for n in steps]
    corrected = errors(samplers.make(name), problem, grids)
    published = errors(samplers.make(name, variant="published"), problem, grids)
    assert order(corrected, steps) == pytest.approx(3, abs=0.15)
    assert order(published, steps) == pytest.approx(2, abs=0.15)
    assert published[-1] > 10 * corrected[-1]


@pytest.mark.parametrize(("name", "on_noise"), [("dpmpp_3m", False), ("dpm_3m", True)])
def test_corrected_3m_is_exact_for_predictions_quadratic_in_lambda(name, on_noise):
    """x̂₀ (or ε) = c₀ + c₁ λ + c₂ λ², on uneven steps: from its third step on the sampler follows the flow to rounding.

    The flow is x⁺ = (σ⁺/σ) x + ∫ e^{λ−λ⁺} x̂₀ dλ, or x − ∫ e^{−λ} ε dλ.
    """
    sigmas = (9.0, 6.5, 6.0, 3.0, 1.1, 0.9, 0.1)

    def poly(lam):
        return 0.7 - 1.3 * lam + 0.4 * lam * lam

    def denoise(x, sigma):
        value = poly(-math.log(sigma))
        return x - sigma * value if on_noise else torch.full_like(x, value)

    def flow(x, sigma, sigma_next):
        a, b = -math.log(sigma), -math.log(sigma_next)
        if on_noise:
            return x - quad(lambda lam: math.exp(-lam) * poly(lam), a, b, epsabs=1e-13)[0]
        return sigma_next / sigma * x + quad(lambda lam: math.exp(lam - b) * poly(lam), a, b, epsabs=1e-13)[0]

    gaps = {}
    for variant in ("corrected", "published"):
        rule, x, memory = samplers.make(name, variant=variant), start(3, sigma=9.0), None
        for i, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
            exact = flow(x, sigma, sigma_next)
            x, memory = rule.step(denoise, x, sigma, sigma_next, memory, None)
            if i >= 2:
                gaps[variant] = max(gaps.get(variant, 0.0), (x - exact).abs().max().item())
    assert gaps["corrected"] < 1e-12
    assert gaps["published"] > 1e-2


def newton(*steps):
    """∫ of Newton's form of the interpolant through 0, −h₁, −h₁−h₂, …, over [0, h], by its value at unit vectors."""
    h, *last = steps
    nodes = np.concatenate([[0.0], -np.cumsum(last)])
    return [
        quad(lambda s, j=j: np.prod([(s - n) / (nodes[j] - n) for i, n in enumerate(nodes) if i != j]), 0, h)[0] / h
        for j in range(len(nodes))
    ]


def test_published_ipndm_v_weights_on_even_steps():
    assert published_weights(1.0) == (1.0,)
    assert published_weights(1.0, 1.0) == pytest.approx((3 / 2, -1 / 2))
    assert published_weights(1.0, 1.0, 1.0) == pytest.approx((23 / 12, -16 / 12, 5 / 12))
    assert published_weights(*[1.0] * 4) == pytest.approx([w / 24 for w in (57, -65, 43, -11)])


def test_published_ipndm_v_weights_are_not_those_of_uneven_steps():
    assert published_weights(1.0, 1.7) == pytest.approx(newton(1.0, 1.7))
    assert published_weights(1.0, 1.7, 0.6) != pytest.approx(newton(1.0, 1.7, 0.6), rel=0.01)
    assert sum(published_weights(1.0, 1.7, 0.6)) == pytest.approx(1)
    assert sum(published_weights(1.0, 1.5, 2.25, 3.375)) == pytest.approx(1)  # steps that change evenly
    assert abs(sum(published_weights(1.0, 1.7, 0.6, 1.2)) - 1) > 0.1  # not even a constant is integrated


def test_published_ipndm_v_is_of_second_order_on_a_smooth_grid():
    steps = (512, 2048)
    assert order(errors(samplers.make("ipndm_v", variant="published"), SPECTRUM, map(karras, steps)), steps) == (
        pytest.approx(2, abs=0.15)
    )


def test_published_ipndm_v_does_not_converge_where_steps_alternate():
    """Steps in log σ of 2, 1, 2, 1, …: the corrected weights converge as ever, the published ones to something else."""

    def alternating(steps):
        along = np.cumsum([0.0, *[2.0, 1.0] * (steps // 2)])
        return [float(sigma) for sigma in TOP * (LOW / TOP) ** (along / along[-1])]

    steps = (64, 128, 256, 512)
    grids = [alternating(n) for n in steps]
    published = errors(samplers.make("ipndm_v", variant="published"), SPECTRUM, grids)
    assert min(published) > 0.3
    assert order(errors(samplers.make("ipndm_v"), SPECTRUM, grids), steps) > 2
    assert order(errors(samplers.make("ipndm"), SPECTRUM, grids), steps) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("solver", ["midpoint", "heun"])
@pytest.mark.parametrize("on", ["data", "noise"])
def test_single_steps_on_the_levels_of_the_grid_are_of_third_order_where_these_are_at_two_thirds(on, solver):
    """Groups of three steps, 1 : 1 : 1 in log σ, or 1 : 1 : 2, where r₂ = ½. The last group has two steps and an error
    of h³."""

    def grid(groups, lengths):
        along = np.cumsum([0.0, *lengths * groups, 1.0, 1.0])
        return [float(sigma) for sigma in TOP * (LOW / TOP) ** (along / along[-1])]

    rule, groups = samplers.make("dpm_singlestep", on=on, solver=solver), (32, 128)
    for lengths, expected in ([1.0, 1.0, 1.0], 3), ([1.0, 1.0, 2.0], 2):
        found = errors(rule, SPECTRUM, [grid(n, lengths) for n in groups])
        assert order(found, groups) == pytest.approx(expected, abs=0.15)


def test_third_order_single_steps_need_their_last_call_at_two_thirds():
    """Why r₂ is no option: the paper's last line, with r₂ elsewhere, is of second order."""

    def run(r2, sigmas):
        x, _ = the_flow(SPECTRUM)
        for sigma, low in pairwise(sigmas):
            h, r1 = math.log(sigma / low), 1 / 3
            s1, s2 = sigma * math.exp(-r1 * h), sigma * math.exp(-r2 * h)
            d0 = SPECTRUM.denoise(x, sigma)
            u1 = s1 / sigma * x + (1 - math.exp(-r1 * h)) * d0
            d1 = SPECTRUM.denoise(u1, s1) - d0
            slope = 1 - (1 - math.exp(-r2 * h)) / (r2 * h)
            u2 = s2 / sigma * x + (1 - math.exp(-r2 * h)) * d0 + r2 / r1 * slope * d1
            d2 = SPECTRUM.denoise(u2, s2) - d0
            x = low / sigma * x + (1 - math.exp(-h)) * d0 + (1 - (1 - math.exp(-h)) / h) / r2 * d2
        return x

    steps = (64, 256)
    _, exact = the_flow(SPECTRUM)
    fitted = {
        r2: order([(run(r2, karras(n)) - exact).square().mean().sqrt().item() for n in steps], steps)
        for r2 in (2 / 3, 0.8)
    }
    assert fitted[2 / 3] == pytest.approx(3, abs=0.15)
    assert fitted[0.8] == pytest.approx(2, abs=0.15)
    got = samplers.run(samplers.make("dpmpp_3s"), SPECTRUM.denoise, the_flow(SPECTRUM)[0], karras(20))
    torch.testing.assert_close(got, run(2 / 3, karras(20)), atol=1e-12, rtol=1e-12)
