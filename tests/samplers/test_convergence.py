"""Every deterministic sampler converges to the exact probability flow, at the order it claims."""

import math
from functools import cache

import numpy as np
import pytest
import torch
from sampler_problems import DETERMINISTIC, MIXTURE, PLAIN, SD, SPECTRUM, start

import samplers
from samplers.denoiser import Unguided

TOP, LOW = 10.0, 0.02
LEVELS = samplers.continuous_levels(LOW, TOP)
VARIANTS = [
    samplers.make("deis", max_order=4),
    samplers.make("dpm2", clock="flow"),
    samplers.make("dpm_2s", r1=0.3),
    samplers.make("dpm_3m", variant="published"),
    samplers.make("dpm_adaptive", pair="12"),
    samplers.make("dpm_fast", remainder=2),
    samplers.make("dpm_singlestep", max_order=2),
    samplers.make("dpm_singlestep", max_order=2, on="noise", solver="heun"),
    samplers.make("dpmpp_2s", r1=1.0),
    samplers.make("dpmpp_3m", variant="published"),
    samplers.make("dpmpp_3s", r1=0.6),
    samplers.make("gradient_estimation", gamma=1.5),
    samplers.make("heun", clock="flow"),
    samplers.make("lms", max_order=3),
    samplers.make("res_multistep", max_order=3),
    samplers.make("unipc", max_order=1),
    samplers.make("unipc", max_order=3),
    samplers.make("unipc", max_order=3, corrector=False),
    samplers.make("unipc", kind="bh1"),
]
PROBLEMS = {"gaussian": SPECTRUM, "mixture": MIXTURE}
OPTIONS = [pytest.param(rule, marks=pytest.mark.slow) for rule in VARIANTS]  # `sdlab certify` measures them too
# Of third order but for its last step, an Euler step whose error is the larger one only with thousands of steps.
CLEAR = [name for name in DETERMINISTIC if name != "dpm_singlestep"]


@cache
def the_flow(problem):
    """Starts at TOP, and where the exact flow carries them."""
    x = start(6, *PROBLEMS[problem].marginal_mean(TOP).shape, sigma=TOP)
    return x, PROBLEMS[problem].flow(x, TOP, LOW)


def order(rule, problem, grid, steps, eased=False):
    """The order at which the RMS distance to the exact flow shrinks from one number of steps to another."""
    (x, exact), errors = the_flow(problem), []
    for n in steps:
        sigmas = samplers.grid(grid, steps=n, levels=LEVELS, ending="stop_at_sigma_min")
        got = samplers.run(rule, Unguided(PROBLEMS[problem].denoise), x, samplers.eased(sigmas) if eased else sigmas)
        errors.append((got - exact).square().mean().sqrt().item())
    return math.log(errors[0] / errors[1]) / math.log(steps[1] / steps[0])


@pytest.mark.parametrize("grid", ["karras", "exponential"])
@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("rule", [*map(samplers.make, CLEAR), *OPTIONS], ids=str)
def test_error_shrinks_at_the_order_the_sampler_claims(rule, problem, grid):
    """Where the leading term dominates. For multistep samplers the split first step fills the memory."""
    rule = rule.with_levels(samplers.vp_levels())  # a clock without corners
    looks_back = rule.order > 2 and rule.nfe((3.0, 2.0, 1.0)) == 2
    steps = (256, 1024) if looks_back else (64, 256)
    assert order(rule, problem, grid, steps, eased=looks_back) == pytest.approx(rule.order, abs=0.15)


@pytest.mark.parametrize("grid", ["karras", "exponential"])
@pytest.mark.parametrize("problem", PROBLEMS)
def test_a_third_order_sampler_with_a_last_euler_step_converges_no_slower_than_it_claims(problem, grid):
    rule = samplers.make("dpm_singlestep")
    assert order(rule, problem, grid, (66, 258)) > rule.order - 0.15


@pytest.mark.parametrize("name", ["ipndm_v", "lms"])
def test_the_error_of_the_first_steps_shrinks_at_order_two(name):
    """On a plain grid the error of the first (Euler) step vanishes last, whatever the order of the later steps."""
    rule = samplers.make(name)
    assert rule.order == 4
    assert order(rule, "gaussian", "karras", (512, 2048)) == pytest.approx(2, abs=0.1)


@pytest.mark.parametrize("name", ["dpm_3m", "dpmpp_3m"])
def test_the_error_of_the_first_steps_is_small_at_few_steps(name):
    """On the mixture, at usual numbers of steps, a third-order sampler is better than second order on a plain grid."""
    assert order(samplers.make(name), "mixture", "karras", (32, 128)) > 2.5


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_many_steps_reach_the_exact_sample(name):
    """On Stable Diffusion's levels, where Euler's step from 0.029 to 0 leaves (0.029/std)²/2 whatever the order."""
    x = start(4, 3, sigma=SD.sigma_max)
    sigmas = samplers.grid("karras", steps=1000, levels=SD)
    got = samplers.run(samplers.make(name), Unguided(SPECTRUM.denoise), x, sigmas)
    torch.testing.assert_close(got, SPECTRUM.flow(x, SD.sigma_max, 0.0), atol=0.0, rtol=0.01)


def without_edict(names):
    """All but EDICT, which asks for the noise in a state at a level that the state has left, and finds less."""
    return [name for name in names if name != "edict"]


@pytest.mark.parametrize("name", without_edict(PLAIN))
@pytest.mark.parametrize("grid", sorted(set(samplers.GRIDS) - {"explicit"}))
def test_a_point_mass_is_hit_in_one_step(name, grid):
    """D(x, σ) = μ is exact for data at one point, and then any single step to zero is exact too."""
    point = torch.tensor([[0.3, -2.0, 5.0]])
    sigmas = samplers.grid(grid, steps=1, levels=SD)
    x = start(1, 3, sigma=sigmas[0]).float()
    denoise = Unguided(lambda x, sigma: point)
    got = samplers.run(samplers.make(name), denoise, x, sigmas, noise=samplers.seeded([0]))
    assert torch.equal(got, point)


@pytest.mark.parametrize("name", without_edict(DETERMINISTIC))
def test_a_sampler_is_exact_where_the_denoiser_is_constant(name):
    """x̂₀ constant makes the flow a straight line in (x, σ): x⁺ = x̂₀ + (σ⁺/σ)(x − x̂₀), for every sampler and step."""
    point, sigmas = torch.tensor([0.3, -2.0, 5.0], dtype=torch.float64), (7.0, 3.0, 2.5, 0.1)
    x = start(2, 3, sigma=7.0)
    got = samplers.run(samplers.make(name), Unguided(lambda x, sigma: point.expand_as(x)), x, sigmas)
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
