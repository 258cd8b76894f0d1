"""RES multistep: how it starts, how many calls that takes, and what RES4LYF's weights of order 3 lose."""

import math
from itertools import pairwise

import pytest
import torch
from sampler_problems import MIXTURE, SPECTRUM, start

import samplers
from samplers.adams import adams_weights

EVEN = samplers.grid("exponential", steps=8, levels=samplers.continuous_levels(0.05, 10), ending="stop_at_sigma_min")
LONG = (10.0, 5.0, 2.5, 1.25, 0.4, 0.3, 0.09, 0.02, 0.0)  # h ≥ 1 from 1.25, from 0.3 and from 0.09


def states(sigmas, **options):
    """x at every level, the start included."""
    kept = [start(3, 2, sigma=sigmas[0])]
    rule = samplers.make("res_multistep", **options)
    samplers.run(rule, MIXTURE.denoise, kept[0], sigmas, on_step=lambda _, x: kept.append(x))
    return kept


def single(order, x, sigma, sigma_next):
    return samplers.run(samplers.make(f"res_{order}s"), MIXTURE.denoise, x, (sigma, sigma_next))


def multistep(order, kept, sigmas, i, weights=adams_weights):
    """Exponential Adams–Bashforth from level i, from the states before it."""
    h = math.log(sigmas[i] / sigmas[i + 1])
    nodes = tuple(math.log(sigmas[i] / sigmas[i - j]) / h for j in range(order))
    values = [MIXTURE.denoise(kept[i - j], sigmas[i - j]) for j in range(order)]
    parts = (h * weight * value for weight, value in zip(weights(nodes, -h), values, strict=True))
    return sum(parts, math.exp(-h) * kept[i])


def res4lyf(nodes, z):
    """RES4LYF's weights: a tableau of three stages with its inner levels at those of the previous steps."""
    c2, c3, phi_1, phi_2 = nodes[1], nodes[2], math.expm1(z) / z, (math.expm1(z) / z - 1) / z
    gamma = (3 * c3**3 - 2 * c3) / (c2 * (2 - 3 * c2))
    b3 = phi_2 / (gamma * c2 + c3)
    return phi_1 - b3 - gamma * b3, gamma * b3, b3


def same(ours, expected):
    torch.testing.assert_close(ours, expected, atol=1e-11, rtol=1e-11)


@pytest.mark.parametrize("order", [2, 3])
def test_from_an_euler_step_it_uses_as_many_predictions_as_there_are(order):
    kept = states(EVEN, max_order=order)
    for i in range(len(EVEN) - 1):
        same(kept[i + 1], multistep(min(i + 1, order), kept, EVEN, i))


@pytest.mark.parametrize("order", [2, 3])
@pytest.mark.parametrize("form", ["single_step_start", "res4lyf"])
def test_the_first_steps_are_single_steps_and_the_others_multistep(order, form):
    kept, first = states(EVEN, max_order=order, form=form), order - 1 + (form == "res4lyf")
    for i, (sigma, sigma_next) in enumerate(pairwise(EVEN)):
        weights = res4lyf if form == "res4lyf" and order == 3 else adams_weights
        expected = single(order, kept[i], sigma, sigma_next) if i < first else multistep(order, kept, EVEN, i, weights)
        same(kept[i + 1], expected)


@pytest.mark.parametrize("order", [2, 3])
def test_res4lyf_takes_long_steps_as_single_steps_and_the_last_as_euler_s(order):
    kept = states(LONG, max_order=order, form="res4lyf")
    for i, (sigma, sigma_next) in enumerate(pairwise(LONG)):
        if sigma < 0.1:
            same(kept[i + 1], torch.lerp(MIXTURE.denoise(kept[i], sigma), kept[i], sigma_next / sigma))
        elif i < order or sigma in (1.25, 0.3):
            same(kept[i + 1], single(order, kept[i], sigma, sigma_next))
        else:
            same(kept[i + 1], multistep(order, kept, LONG, i, res4lyf if order == 3 else adams_weights))


@pytest.mark.parametrize(
    ("options", "calls"),
    [
        ({}, 8),
        ({"form": "single_step_start"}, 9),
        ({"form": "single_step_start", "max_order": 3}, 8 + 2 * 2),
        ({"form": "res4lyf"}, 8 + 2 + 2),  # two steps at the start, two long ones
        ({"form": "res4lyf", "max_order": 3}, 8 + 3 * 2 + 2 * 2),
    ],
)
def test_the_calls_of_the_first_and_the_long_steps_are_counted(options, calls):
    assert samplers.make("res_multistep", **options).nfe(LONG) == calls


def error(steps, **options):
    levels = samplers.continuous_levels(0.02, 10)
    sigmas = samplers.grid("karras", steps=steps, levels=levels, ending="stop_at_sigma_min")
    x = start(6, 3, sigma=10.0)
    got = samplers.run(samplers.make("res_multistep", **options), SPECTRUM.denoise, x, sigmas)
    return float((got - SPECTRUM.flow(x, 10.0, 0.02)).square().mean().sqrt())


def order(**options):
    return math.log2(error(192, **options) / error(384, **options))


def test_a_single_step_start_has_the_full_order_on_any_grid_and_an_euler_start_has_order_two():
    assert order(max_order=3, form="single_step_start") == pytest.approx(3, abs=0.15)
    assert order(max_order=3) < 2.6


def test_the_weights_of_res4lyf_miss_the_third_condition():
    """Σ b c² = 1/3 as h → 0 fails: −2/3 on even steps, and so order 2."""
    weights = res4lyf((0.0, -1.0, -2.0), -1e-4)
    assert sum(weights) == pytest.approx(1, rel=1e-3)
    assert -weights[1] - 2 * weights[2] == pytest.approx(1 / 2, rel=1e-3)
    assert weights[1] + 4 * weights[2] == pytest.approx(-2 / 3, rel=1e-3)
    exact = adams_weights((0.0, -1.0, -2.0), -1e-4)
    assert exact[1] + 4 * exact[2] == pytest.approx(1 / 3, rel=1e-3)
    assert order(max_order=3, form="res4lyf") == pytest.approx(2, abs=0.15)
    assert samplers.make("res_multistep", max_order=3, form="res4lyf").order == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_order": 4}, r"RESMultistep\.max_order must be one of 2, 3, got 4"),
        ({"form": "heun"}, r"RESMultistep\.form must be one of 'adams', 'single_step_start', 'res4lyf', got 'heun'"),
    ],
)
def test_an_unknown_option_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        samplers.make("res_multistep", **options)
