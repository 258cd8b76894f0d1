"""The law of what stochastic samplers make, without a random number: marginals kept, and the order they converge at.

Data N(μ, s²) makes every sampler here affine in its start and its draws, so `samplers.law` has its law at every level.
"""

import math
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
import torch
from sampler_problems import MIXTURE, STOCHASTIC

import samplers
from samplers.exact.law import law, laws, marginal
from samplers.exact.problems import Gaussian

DATA = Gaussian(std=torch.tensor([0.3, 0.6]).double(), mean=torch.tensor([0.4, -1.0]).double())
TOP, LOW = 10.0, 0.02
LEVELS = samplers.continuous_levels(LOW, TOP)

# Every sampler with the options that say how much noise it takes.
CASES = [
    ("ddim", {"eta": 0.3}),
    ("ddim", {"eta": 1.0}),
    ("ddim_cfg_pp", {"eta": 0.6}),
    ("ddpm", {}),
    ("dpm2_ancestral", {}),
    ("dpm2_ancestral", {"eta": 0.5}),
    ("dpm2_ancestral", {"clock": "flow"}),
    ("dpm_2m_sde", {}),
    ("dpm_2m_sde", {"eta": 0.4}),
    ("dpm_2m_sde", {"solver": "heun"}),
    ("dpmpp_2m_sde", {}),
    ("dpmpp_2m_sde", {"eta": 0.4}),
    ("dpmpp_2m_sde", {"eta": 2.0}),
    ("dpmpp_2m_sde", {"solver": "heun"}),
    ("dpmpp_2s_ancestral", {}),
    ("dpmpp_2s_ancestral", {"eta": 0.5}),
    ("dpmpp_2s_ancestral", {"clock": "flow"}),
    ("dpmpp_3m_sde", {}),
    ("dpmpp_3m_sde", {"variant": "published"}),
    ("dpmpp_sde", {}),
    ("dpmpp_sde", {"eta": 0.5}),
    ("dpmpp_sde", {"r1": 0.3, "eta": 0.3}),
    ("dpmpp_sde", {"r1": 0.7}),
    ("dpmpp_sde", {"r1": 0.3, "variant": "published"}),
    ("dpmpp_sde", {"variant": "published"}),
    ("edm_euler", {}),
    ("edm_heun", {}),
    ("edm_heun", {"s_churn": 15.0}),
    ("edm_heun", {"s_churn": 15.0, "s_tmin": 0.1, "s_tmax": 3.0}),
    ("er_sde", {"stages": 1}),
    ("er_sde", {"stages": 2}),
    ("er_sde", {"variant": "published"}),
    ("er_sde", {"scale": "sde"}),
    ("er_sde", {"scale": "er_sde_4", "stages": 2}),
    ("euler_ancestral", {}),
    ("euler_ancestral", {"eta": 0.5}),
    ("euler_ancestral", {"clock": "flow"}),
    ("restart", {}),
    ("restart", {"repeats": 3, "low": 0.05, "high": 5.0}),
    ("sa_solver", {}),
    ("sa_solver", {"tau": 0.6}),
    ("sa_solver", {"pece": True}),
    ("sa_solver", {"corrector": 0}),
    ("sa_solver", {"tau_low": 0.2, "tau_high": 4.0}),
    ("sa_solver", {"predictor": 2, "corrector": 2, "variant": "published"}),
    ("sa_solver", {"predictor": 1, "corrector": 0}),
    ("sa_solver", {"on": "noise"}),
    ("sa_solver", {"on": "noise", "tau": 0.6, "pece": True}),
    ("sa_solver", {"on": "noise", "predictor": 2, "corrector": 0}),
    ("seeds_2", {}),
    ("seeds_2", {"eta": 0.4}),
    ("seeds_3", {}),
    ("seeds_3", {"eta": 0.4}),
    ("sit_sde", {}),
    ("sit_sde", {"diffusion": "increasing_decreasing", "norm": 0.5}),
    ("sit_sde", {"diffusion": "sbdm"}),
]
# Better than claimed: little noise leaves the third order of the drift in front at any number of steps that matters,
# and the trapezoidal corrector keeps the variance of a linear equation.
# The variant that loses a sign claims nothing, since it is unstable where ∂D/∂x > 1; on a Gaussian it is of order 1.
BETTER = [
    ("er_sde", {}),
    ("sa_solver", {"predictor": 2, "corrector": 2}),
    ("dpmpp_3m_sde", {"variant": "diffusers"}),
]
EVERY = pytest.mark.parametrize(("name", "options"), [*CASES, *BETTER], ids=str)


def grid(steps, name="exponential"):
    return samplers.grid(name, steps=steps, levels=LEVELS, ending="stop_at_sigma_min")


def slope(steps, gaps):
    return -np.polyfit(np.log(steps), np.log(gaps), 1)[0]


def test_every_stochastic_sampler_is_tested_here():
    """All but the steps for distilled networks, which are no integrators."""
    assert {name for name, _ in CASES} >= set(STOCHASTIC) - {"lcm", "tcd"}


ON_NOISE = [(name, options) for name, options in CASES if name == "dpm_2m_sde" or options.get("on") == "noise"]
EULER_MARUYAMA = [(name, options) for name, options in CASES if name == "sit_sde"]  # its error is in the law
ON_DATA = [case for case in [*CASES, *BETTER] if case not in [*ON_NOISE, *EULER_MARUYAMA]]


@pytest.mark.parametrize(
    ("name", "options"), [*ON_DATA, ("lcm", {}), ("tcd", {}), ("edm_heun", {"s_churn": 1e3})], ids=str
)
def test_data_at_one_point_keep_their_marginals_at_every_level(name, options):
    """x₀ = μ makes D constant; then the law of x is N(μ, σ²) after any step, of any length, with any noise."""
    point = Gaussian(std=torch.zeros(2).double(), mean=torch.tensor([0.4, -1.0]).double())
    sigmas = (10.0, 9.99, 4.0, 0.3, 0.05, 0.049, 0.001)
    for level, got in zip(sigmas[1:], laws(samplers.make(name, **options), point, sigmas), strict=True):
        torch.testing.assert_close(got.mean, point.mean, atol=1e-10, rtol=0)
        torch.testing.assert_close(got.variance, torch.full((2,), level**2, dtype=torch.float64), atol=0, rtol=1e-9)


@pytest.mark.parametrize(("name", "options"), ON_NOISE, ids=str)
def test_a_constant_noise_prediction_is_integrated_exactly(name, options):
    """ε = e in dx = −(1+η) σ ε dλ + √(2η) σ dB: x moves by (1+η)(σ⁺ − σ) e, and its variance grows by η (σ² − σ⁺²)."""

    class ConstantNoise(Gaussian):
        def denoise(self, x, sigma):
            return x - sigma * self.mean

    rule = samplers.make(name, **options)
    eta = rule.tau**2 if name == "sa_solver" else rule.eta
    problem = ConstantNoise(DATA.std, DATA.mean)
    sigmas = (10.0, 9.99, 4.0, 0.3, 0.05, 0.049, 0.001)
    for level, got in zip(sigmas[1:], laws(rule, problem, sigmas), strict=True):
        start = marginal(problem, sigmas[0])
        expected = start.mean + (1 + eta) * (level - sigmas[0]) * problem.mean
        torch.testing.assert_close(got.mean, expected, atol=1e-10, rtol=0)
        torch.testing.assert_close(got.variance, start.variance + eta * (sigmas[0] ** 2 - level**2), atol=0, rtol=1e-9)


@pytest.mark.parametrize("name", ["dpm_2m_sde", "sa_solver"])
def test_a_first_step_on_noise_leaves_noise_where_the_data_are_one_point(name):
    """x⁺ = x − 2 (σ − σ⁺) ε + √(σ² − σ⁺²) z with ε = (x − μ)/σ: a variance of σ⁺² + 2 (σ − σ⁺)²."""
    options = {"on": "noise"} if name == "sa_solver" else {}
    point = Gaussian(std=torch.zeros(2).double(), mean=torch.tensor([0.4, -1.0]).double())
    got = law(samplers.make(name, **options), point, (5.0, 2.0))
    torch.testing.assert_close(got.mean, point.mean, atol=1e-10, rtol=0)
    torch.testing.assert_close(got.variance, torch.full((2,), 22.0, dtype=torch.float64), atol=0, rtol=1e-9)


@cache
def errors(name, options, steps):
    """Relative errors of the variance at every level of a grid but the first: (steps, 2)."""
    sigmas = grid(steps)
    exact = torch.stack([marginal(DATA, level).variance for level in sigmas[1:]])
    found = laws(samplers.make(name, **dict(options)), DATA, sigmas)
    return (torch.stack([got.variance for got in found]) / exact - 1).abs()


def order(name, options, measure):
    """From 128 steps to 256."""
    coarse, fine = (measure(errors(name, tuple(options.items()), n)) for n in (128, 256))
    return math.log2(coarse / fine)


@pytest.mark.parametrize(("name", "options"), CASES, ids=str)
def test_the_variance_converges_at_the_order_claimed(name, options):
    claimed = samplers.make(name, **options).order
    assert order(name, options, lambda e: e[-1].max().item()) == pytest.approx(claimed, abs=0.15)


@pytest.mark.parametrize(("name", "options"), BETTER, ids=str)
def test_the_variance_converges_at_no_less_than_the_order_claimed(name, options):
    assert order(name, options, lambda e: e[-1].max().item()) > samplers.make(name, **options).order - 0.15


@EVERY
def test_marginals_are_kept_at_every_level_as_steps_grow(name, options):
    """At the worst level of the grid too."""
    claimed = samplers.make(name, **options).order
    assert order(name, options, lambda e: e.max().item()) > claimed - 0.15
    assert errors(name, tuple(options.items()), 256).max() < {0: 0.05, 1: 0.05, 2: 3e-3}[claimed]


# How fast the SDE of a sampler forgets its start, η of dx = (1+η)(D − x) dλ + √(2η) σ dB, and at what order:
# ancestral steps take their noise at the end of a step, which costs an order here and none in the marginals.
FOLLOWED = [
    ("ddim", {"eta": 0.5}, 0.25, 1),
    ("ddpm", {}, 1.0, 1),
    ("dpm2_ancestral", {"eta": 0.5}, 0.25, 1),
    ("dpm_2m_sde", {"eta": 0.4}, 0.4, 2),
    ("dpmpp_2m_sde", {"eta": 0.4}, 0.4, 2),
    ("dpmpp_2s_ancestral", {"eta": 0.5}, 0.25, 1),
    ("dpmpp_3m_sde", {}, 1.0, 2),
    ("dpmpp_3m_sde", {"eta": 0.4}, 0.4, 2),
    ("dpmpp_sde", {"eta": 0.5}, 0.25, 1),
    ("er_sde", {"scale": "sde"}, 1.0, 2),
    ("er_sde", {"scale": "er_sde_2", "stages": 2}, 0.5, 2),
    ("er_sde", {"scale": "er_sde_3", "stages": 2}, 1.5, 2),
    ("sa_solver", {"tau": 0.6}, 0.36, 2),
    ("sa_solver", {"tau": 0.6, "on": "noise"}, 0.36, 2),
    ("seeds_2", {"eta": 0.4}, 0.4, 2),
    ("seeds_3", {"eta": 0.4}, 0.4, 2),
]


@pytest.mark.parametrize(("name", "options", "eta", "order"), FOLLOWED, ids=str)
def test_the_mean_follows_the_reverse_equation(name, options, eta, order):
    """E[x] − μ shrinks with ((s² + σ⁺²)/(s² + σ²))^{(1+η)/2}, from a start that is off by one."""
    rule, steps = samplers.make(name, **options), (128, 512)
    kept = (marginal(DATA, LOW).variance / marginal(DATA, TOP).variance) ** ((1 + eta) / 2)
    ends = [samplers.run(rule, DATA.denoise, DATA.mean[None] + 1, grid(n), noise=torch.zeros_like)[0] for n in steps]
    off = [((end - DATA.mean) / kept - 1).abs().max().item() for end in ends]
    assert off[-1] < (0.1 if order == 1 else 5e-3)
    if eta == 1:  # E[D] is constant along the reverse equation of Gaussian data
        assert off[-1] < 1e-10
    else:
        assert slope(steps, off) > order - 0.15


@pytest.mark.parametrize("name", ["dpm2_ancestral", "dpmpp_2m_sde", "dpmpp_sde", "edm_heun", "sa_solver"])
def test_samples_of_a_mixture_have_its_moments(name):
    """10,000 samples at 40 steps: means within 4.5 standard errors, variances within those plus the sampler's error."""
    n, noise = 10_000, samplers.seeded([11])
    sigmas = samplers.grid(
        "karras", steps=40, levels=samplers.continuous_levels(0.05, 20.0), ending="stop_at_sigma_min"
    )

    def draw(like):
        return noise(like[None])[0]

    x = MIXTURE.sample(n, torch.Generator().manual_seed(3), torch.float64)
    x = x + sigmas[0] * draw(torch.empty(n, 2, dtype=torch.float64))
    got = samplers.run(samplers.make(name), MIXTURE.denoise, x, sigmas, noise=draw)
    variance = MIXTURE.marginal_variance(sigmas[-1])
    assert ((got.mean(0) - MIXTURE.marginal_mean(0.0)).abs() < 4.5 * (variance / n).sqrt() + 1e-3).all()
    fourth = (got - got.mean(0)).pow(4).mean(0)
    error = ((fourth - variance**2) / n).sqrt()
    assert ((got.var(0) - variance).abs() < 4.5 * error + 0.005 * variance).all()


def test_the_inner_grid_does_not_become_finer_with_the_outer_one():
    """Restart with a fixed number of inner steps stops converging; with the grid's own levels it does not (above)."""
    assert order("restart", {"inner_steps": 9}, lambda e: e[-1].max().item()) < 0.2


def test_noise_that_is_scaled_leaves_too_much():
    """S_noise ≠ 1 of Algorithm 2 is a remedy for networks: with the exact denoiser it is an error that stays."""
    more = samplers.make("edm_heun", s_churn=15.0, s_noise=1.01)
    excess = law(more, DATA, grid(256)).variance / marginal(DATA, LOW).variance - 1
    assert (excess > 20 * errors("edm_heun", (("s_churn", 15.0),), 256)[-1]).all()


def test_the_consistency_step_is_exact_in_law_with_a_consistency_function():
    """f(x, σ) where the flow ends: its samples have the law of the data, and noise makes marginals of them."""

    class Distilled(Gaussian):
        def denoise(self, x, sigma):
            return self.flow(x, sigma, 0.0)

    distilled = Distilled(DATA.std, DATA.mean)
    for level, got in zip((3.0, 0.5, 0.0), laws(samplers.make("lcm"), distilled, (10.0, 3.0, 0.5, 0.0)), strict=True):
        torch.testing.assert_close(got.variance, marginal(DATA, level).variance, atol=1e-12, rtol=0)
    assert samplers.make("lcm").order == 0
    many = law(samplers.make("lcm"), DATA, (*grid(200), 0.0)).variance
    assert (many < 0.5 * marginal(DATA, 0.0).variance).all()


def test_churn_is_bounded_as_in_the_paper():
    """γ = min(S_churn/N, √2 − 1): one step of Euler from a level raised by it."""
    denoise, z = MIXTURE.denoise, torch.ones(1, 2, dtype=torch.float64)
    x, sigmas = torch.full((1, 2), 2.0, dtype=torch.float64), (2.0, 1.0, 0.5)
    for churn, gamma in ((0.3, 0.15), (50.0, math.sqrt(2) - 1)):
        rule, up = samplers.make("edm_euler", s_churn=churn, s_noise=1.1, s_tmin=1.5), 2 * (1 + gamma)
        raised = x + 1.1 * math.sqrt(up**2 - 2.0**2) * z
        first = samplers.run(samplers.make("euler"), denoise, raised, (up, 1.0))
        expected = samplers.run(samplers.make("euler"), denoise, first, (1.0, 0.5))
        got = samplers.run(rule, denoise, x, sigmas, noise=lambda x: z)
        torch.testing.assert_close(got, expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("name", ["edm_euler", "edm_heun"])
def test_churn_acts_on_both_ends_of_its_interval_and_not_beyond(name: str):
    """The paper's Algorithm 2: S_tmin ≤ σ ≤ S_tmax."""
    x, sigmas = torch.full((1, 2), 2.0, dtype=torch.float64), (4.0, 2.0, 1.0, 0.5)

    def churned(low: float, high: float) -> list[bool]:
        """Whether each step draws noise."""
        draws, steps = list[int](), list[int]()

        def noise(like: torch.Tensor) -> torch.Tensor:
            draws.append(1)
            return torch.ones_like(like)

        rule = samplers.make(name, s_churn=1.0, s_tmin=low, s_tmax=high)
        samplers.run(rule, MIXTURE.denoise, x, sigmas, noise=noise, on_step=lambda i, _: steps.append(len(draws)))
        return [after > before for before, after in pairwise([0, *steps])]

    assert churned(1.0, 2.0) == [False, True, True]
    assert churned(2.0, 2.0) == [False, True, False]
    assert churned(1.01, 1.99) == [False, False, False]
    assert churned(0.0, math.inf) == [True, True, True]
