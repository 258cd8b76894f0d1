"""DPM-Solver-12 and -23 with adaptive steps: the controller, and that no image depends on its batch mates."""

import math
from itertools import pairwise

import pytest
import torch
from sampler_problems import MIXTURE, SPECTRUM, Counting, start

import samplers

SPAN = (14.6, 0.03, 0.0)
X = start(5, 2, sigma=SPAN[0])


def one_image(x, order, rtol, atol, h, p, i, d, safety, top, low):
    """The controller for one image in Python floats, as k-diffusion's loop has it, from λ = −log top to −log low."""

    def eps(x, lam):
        return (x - MIXTURE.denoise(x, math.exp(-lam))) / math.exp(-lam)

    s, end, before, last, tries = -math.log(top), -math.log(low), x, [None, None], 0
    while s < end - 1e-12:
        tries += 1
        t = min(end, s + h)
        size = t - s
        e, sig = eps(x, s), math.exp(-t)
        r = 1 / 2 if order == 2 else 1 / 3
        s1 = s + r * size
        d1 = eps(x - math.exp(-s1) * math.expm1(r * size) * e, s1) - e
        euler = x - sig * math.expm1(size) * e
        second = euler - sig / (2 * r) * math.expm1(size) * d1
        if order == 2:
            low_, high = euler, second
        else:
            s2 = s + 2 * r * size
            u2 = x - math.exp(-s2) * (
                math.expm1(2 * r * size) * e + 2 * (math.expm1(2 * r * size) / (2 * r * size) - 1) * d1
            )
            d2 = eps(u2, s2) - e
            low_, high = second, euler - sig / (2 * r) * (math.expm1(size) / size - 1) * d2
        scale = torch.clamp(rtol * torch.maximum(low_.abs(), before.abs()), min=atol)
        error = ((low_ - high) / scale).square().mean().sqrt().item()
        e1, e2 = (1.0 if value is None else value for value in last)
        g = error ** (-(p + i + d) / order) * e1 ** ((p + 2 * d) / order) * e2 ** (-d / order)
        factor = 1 + math.atan(g - 1)
        if factor >= safety:
            before, x, s, last = low_, high, t, [error, last[0]]
        h = size * factor
    return x, tries


@pytest.mark.parametrize("pid", [(0.0, 1.0, 0.0), (0.2, 0.7, 0.1)])
@pytest.mark.parametrize("tolerances", [(0.05, 0.0078), (0.004, 0.0005)])
@pytest.mark.parametrize(("pair", "order"), [("12", 2), ("23", 3)])
def test_each_image_is_steered_as_if_it_were_alone(pair, order, tolerances, pid):
    rtol, atol = tolerances
    p, i, d = pid
    options = {"rtol": rtol, "atol": atol, "pcoeff": p, "icoeff": i, "dcoeff": d}
    counting = Counting(MIXTURE.denoise)
    got = samplers.run(samplers.make("dpm_adaptive", pair=pair, **options), counting, X, SPAN[:2])
    alone = [one_image(x, order, rtol, atol, 0.05, p, i, d, 0.81, *SPAN[:2]) for x in X[:, None]]
    torch.testing.assert_close(got, torch.cat([x for x, _ in alone]), atol=1e-9, rtol=1e-9)
    assert len(counting.levels) == order * max(tries for _, tries in alone)


@pytest.mark.parametrize("pair", ["12", "23"])
def test_no_image_depends_on_its_batch_mates(pair):
    """An image does not change beside another image, even one with data and levels a thousand times as large."""
    rule = samplers.make("dpm_adaptive", pair=pair)
    together = samplers.run(rule, MIXTURE.denoise, torch.cat([X, 1e3 * X]), SPAN)[: len(X)]
    alone = torch.cat([samplers.run(rule, MIXTURE.denoise, x, SPAN) for x in X[:, None]])
    torch.testing.assert_close(together, alone, atol=1e-12, rtol=1e-12)


def test_each_image_has_its_own_steps():
    counting = Counting(MIXTURE.denoise)
    samplers.run(samplers.make("dpm_adaptive"), counting, X, SPAN)
    visited = torch.stack([sigma for sigma in counting.levels if isinstance(sigma, torch.Tensor)])  # (calls, B)
    assert visited.shape[1] == len(X)
    assert len({tuple(column.tolist()) for column in visited.T}) > 1
    assert visited.min() >= SPAN[1] * (1 - 1e-12)
    assert visited.max() <= SPAN[0] * (1 + 1e-12)


@pytest.mark.parametrize("problem", [SPECTRUM, MIXTURE], ids=["gaussian", "mixture"])
def test_a_finer_tolerance_takes_more_passes_and_has_a_smaller_error(problem):
    x = start(6, *problem.marginal_mean(10.0).shape, sigma=10.0)
    exact, errors, calls = problem.flow(x, 10.0, 0.02), [], []
    for tolerance in (1e-1, 1e-2, 1e-3, 1e-4, 1e-5):
        counting = Counting(problem.denoise)
        rule = samplers.make("dpm_adaptive", rtol=tolerance, atol=tolerance)
        errors.append((samplers.run(rule, counting, x, (10.0, 0.02)) - exact).abs().max().item())
        calls.append(len(counting.levels))
    assert calls == sorted(calls)
    assert all(a > 2 * b for a, b in pairwise(errors))
    assert errors[-1] < 1e-4


def test_the_levels_of_the_grid_are_stops():
    """The sampler stops at every level of the grid, so states can be read there. It chooses the steps in between."""
    sigmas, seen = (14.6, 3.0, 0.4, 0.03, 0.0), []
    samplers.run(
        samplers.make("dpm_adaptive", rtol=1e-4, atol=1e-4),
        SPECTRUM.denoise,
        start(2, 3, sigma=14.6),
        sigmas,
        on_step=lambda i, x: seen.append(x.clone()),
    )
    for sigma, x in zip(sigmas[1:-1], seen[:-1], strict=True):
        torch.testing.assert_close(x, SPECTRUM.flow(start(2, 3, sigma=14.6), 14.6, sigma), atol=3e-3, rtol=3e-3)


def test_its_number_of_calls_is_unknown_in_advance():
    assert samplers.make("dpm_adaptive").nfe(SPAN) is None


@pytest.mark.parametrize(
    "denoise",
    [lambda x, sigma: x * math.nan, lambda x, sigma: torch.sin(1e6 * x + 1e8 * sigma[:, None].log())],
    ids=["not finite", "not smooth"],
)
def test_an_error_that_does_not_shrink_is_reported(denoise):
    with pytest.raises(RuntimeError, match="cannot bring the error of a step below its tolerances near sigma"):
        samplers.run(samplers.make("dpm_adaptive", rtol=1e-6, atol=1e-6), denoise, X.float(), SPAN)


def test_a_tolerance_below_the_precision_of_the_state_is_reported():
    rule = samplers.make("dpm_adaptive", rtol=1e-9)
    with pytest.raises(
        ValueError, match=r"DPMSolverAdaptive.rtol must be at least 1.2e-07, the precision of torch.float32"
    ):
        samplers.run(rule, MIXTURE.denoise, X.float(), SPAN)
    assert samplers.run(rule, MIXTURE.denoise, X[:1], (1.0, 0.9)).isfinite().all()


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"pair": "34"}, "DPMSolverAdaptive.pair must be one of '12', '23', got '34'"),
        ({"rtol": 0}, "DPMSolverAdaptive.rtol must be a number above 0, got 0"),
        ({"pcoeff": -1}, "DPMSolverAdaptive.pcoeff must be a number of at least 0, got -1"),
        ({"safety": 1.2}, r"DPMSolverAdaptive.safety must be in \[0, 1\], got 1.2"),
    ],
)
def test_invalid_values(options, line):
    with pytest.raises(ValueError, match=line):
        samplers.make("dpm_adaptive", **options)
