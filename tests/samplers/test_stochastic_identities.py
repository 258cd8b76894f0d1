"""What stochastic samplers are without their noise, and which of them are one sampler under two names."""

from itertools import pairwise
from math import log, log2

import pytest
import torch
from sampler_problems import MIXTURE, SD, start

import samplers
from samplers.adams import Node
from samplers.denoiser import Unguided
from samplers.exact.guided import GuidedGaussian
from samplers.exact.problems import Gaussian
from samplers.multistep import History

GRIDS = [samplers.grid("karras", steps=9, levels=SD), (14.0, 9.0, 8.5, 2.0, 0.5, 0.04)]

WITHOUT_NOISE = [
    ("ddim_cfg_pp", {}, "euler", {}),
    ("dpm2_ancestral", {"eta": 0.0}, "dpm2", {}),
    ("dpm_2m_sde", {"eta": 0.0}, "dpm_2m", {}),
    ("dpmpp_2m_cfg_pp", {}, "dpmpp_2m", {}),
    ("dpmpp_2m_cfg_pp", {"variant": "corrected"}, "dpmpp_2m", {}),
    ("rectified_cfg_pp", {}, "euler", {}),
    ("dpmpp_2m_sde", {"eta": 0.0, "solver": "heun"}, "res_multistep", {}),
    ("dpmpp_2s_ancestral", {"eta": 0.0}, "dpmpp_2s", {}),
    ("dpmpp_sde", {"eta": 0.0}, "dpmpp_2s", {}),
    ("dpmpp_sde", {"eta": 0.0, "r1": 0.3}, "dpmpp_2s", {"r1": 0.3}),
    ("er_sde", {"scale": "ode", "stages": 1}, "euler", {}),
    ("sa_solver", {"tau": 0.0, "predictor": 1, "corrector": 0}, "euler", {}),
    ("sa_solver", {"tau": 0.0, "predictor": 2, "corrector": 0}, "res_multistep", {}),
    ("sa_solver", {"tau": 0.0, "predictor": 3, "corrector": 0}, "dpmpp_3m_sde", {"eta": 0.0}),
    (
        "sa_solver",
        {"tau": 0.0, "predictor": 1, "corrector": 2, "variant": "published"},
        "unipc",
        {"max_order": 1, "kind": "bh1"},
    ),
    (
        "sa_solver",
        {"tau": 0.0, "predictor": 2, "corrector": 0, "variant": "published"},
        "unipc",
        {"kind": "bh1", "corrector": False},
    ),
    ("sa_solver", {"tau": 0.0, "predictor": 1, "corrector": 0, "on": "noise"}, "euler", {}),
    (
        "sa_solver",
        {"tau": 0.0, "predictor": 2, "corrector": 0, "on": "noise"},
        "dpm_2m_sde",
        {"eta": 0.0, "solver": "heun"},
    ),
    ("sa_solver", {"tau_low": 20.0}, "sa_solver", {"tau": 0.0}),
    ("seeds_2", {"eta": 0.0}, "dpmpp_2s", {}),
    ("seeds_3", {"eta": 0.0}, "dpmpp_3s", {}),
    ("tcd", {"gamma": 0.0}, "euler", {}),
]
TO_THE_BIT = [
    ("edm_euler", {"s_churn": 0.0}, "euler", {}),
    ("edm_heun", {"s_churn": 0.0}, "heun", {}),
    ("edm_heun", {"s_tmin": 20.0}, "heun", {}),
    ("dpm2_ancestral", {"eta": 0.0}, "dpm2", {}),
    ("dpmpp_2m_sde", {"eta": 0.0}, "dpmpp_2m", {}),
    ("restart", {"repeats": 0}, "heun", {}),
    ("restart", {"low": 0.01, "high": 0.02}, "heun", {}),
]
ONE_RULE = [
    ("ddim", {"eta": 1.0, "clip": 0.4}, "ddpm", {"clip": 0.4}),
    ("ddim", {"eta": 0.7, "clip_noise": False}, "ddim", {"eta": 0.7}),
    ("ddim_cfg_pp", {"eta": 0.7}, "ddim", {"eta": 0.7}),
    ("dpmpp_sde", {}, "seeds_2", {}),
    ("er_sde", {"scale": "sde", "stages": 1}, "ddpm", {}),
    ("sa_solver", {"predictor": 1, "corrector": 0}, "ddpm", {}),
    ("sa_solver", {"tau": 0.7, "predictor": 2, "corrector": 0}, "dpmpp_2m_sde", {"eta": 0.49, "solver": "heun"}),
    ("sa_solver", {"tau": 0.7, "corrector": 0}, "dpmpp_3m_sde", {"eta": 0.49}),
    (
        "sa_solver",
        {"tau": 0.7, "predictor": 2, "corrector": 0, "on": "noise"},
        "dpm_2m_sde",
        {"eta": 0.49, "solver": "heun"},
    ),
]


def sample(name, options, sigmas, noise=samplers.philox):
    stream = noise([3, 4, 5]) if noise else None
    x = start(3, 2, sigma=sigmas[0])
    return samplers.run(samplers.make(name, **options), Unguided(MIXTURE.denoise), x, sigmas, noise=stream)


@pytest.mark.parametrize("sigmas", GRIDS, ids=["to_zero", "uneven"])
@pytest.mark.parametrize(("name", "options", "twin", "twins"), WITHOUT_NOISE, ids=str)
def test_without_noise_a_sampler_is_a_deterministic_one(name, options, twin, twins, sigmas):
    rule = samplers.make(name, **options)
    noise = samplers.philox if rule.stochastic else None
    torch.testing.assert_close(sample(name, options, sigmas, noise), sample(twin, twins, sigmas), atol=1e-12, rtol=0)


@pytest.mark.parametrize("sigmas", GRIDS, ids=["to_zero", "uneven"])
@pytest.mark.parametrize(("name", "options", "twin", "twins"), TO_THE_BIT, ids=str)
def test_without_noise_a_sampler_is_a_deterministic_one_to_the_bit(name, options, twin, twins, sigmas):
    assert torch.equal(sample(name, options, sigmas), sample(twin, twins, sigmas))


@pytest.mark.parametrize("variant", ["corrected", "published"])
def test_without_noise_the_third_order_step_is_the_deterministic_one(variant):
    """With the same two levels to look back on; in the steps before, the two look back differently."""
    x, nodes = start(3, 2, sigma=3.0), tuple(Node(s, start(3, 2, sigma=1.0, seed=int(s))) for s in (5.0, 9.0))
    memory = History(nodes)
    rules = samplers.make("dpmpp_3m_sde", eta=0.0, variant=variant), samplers.make("dpmpp_3m", variant=variant)
    ours, theirs = (rule.step(MIXTURE.denoise, x, 3.0, 1.7, memory, samplers.philox([0]))[0] for rule in rules)
    torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=0)


@pytest.mark.parametrize("noise", [samplers.philox, samplers.brownian_path], ids=["fresh", "path"])
@pytest.mark.parametrize("sigmas", GRIDS, ids=["to_zero", "uneven"])
@pytest.mark.parametrize(("name", "options", "twin", "twins"), ONE_RULE, ids=str)
def test_two_names_are_one_sampler(name, options, twin, twins, sigmas, noise):
    ours, theirs = sample(name, options, sigmas, noise), sample(twin, twins, sigmas, noise)
    torch.testing.assert_close(ours, theirs, atol=1e-11, rtol=0)


@pytest.mark.parametrize("r1", [0.2, 0.5, 0.8])
def test_on_a_path_both_variants_of_the_sde_sampler_are_one(r1):
    options = [{"variant": variant, "r1": r1} for variant in ("corrected", "published")]
    ours, theirs = (sample("dpmpp_sde", given, GRIDS[0], samplers.brownian_path) for given in options)
    torch.testing.assert_close(ours, theirs, atol=1e-9, rtol=0)
    ours, theirs = (sample("dpmpp_sde", given, GRIDS[0]) for given in options)
    assert (ours - theirs).abs().max() > 0.01


@pytest.mark.parametrize("name", ["ddim", "ddpm"])
def test_a_clip_is_the_sampler_with_a_denoiser_that_is_clipped(name):
    x, noise = start(3, 2, sigma=GRIDS[0][0]), samplers.philox([3, 4, 5])
    clipped = samplers.run(
        samplers.make(name), lambda x, sigma: MIXTURE.denoise(x, sigma).clamp(-0.4, 0.4), x, GRIDS[0], noise
    )
    assert torch.equal(sample(name, {"clip": 0.4}, GRIDS[0]), clipped)
    assert clipped.abs().max() == 0.4


@pytest.mark.parametrize("options", [{"eta": 0.5}, {"eta": 0.5, "clip_noise": False}], ids=str)
def test_a_clip_at_the_range_of_the_data_changes_nothing(options):
    """An exact denoiser predicts a mean of the data, which is within their range."""
    data = Gaussian(std=torch.zeros(2).double(), mean=torch.tensor([0.4, -1.0]).double())
    x = start(3, 2, sigma=GRIDS[0][0])
    free, clipped = (
        samplers.run(samplers.make("ddim", **given), data.denoise, x, GRIDS[0], samplers.philox([3, 4, 5]))
        for given in (options, {**options, "clip": 1.0})
    )
    assert torch.equal(free, clipped)


@pytest.mark.parametrize("eta", [0.3, 1.0, 5.0])
@pytest.mark.parametrize("name", ["dpm2_ancestral", "dpmpp_2s_ancestral", "dpmpp_sde"])
def test_all_noise_drawn_afresh_leaves_the_prediction(name, eta):
    """η so large that σ_up = σ⁺: nothing of x is left, x⁺ = D + σ⁺ z with D the last prediction made."""
    x, z = start(3, 2, sigma=2.0), start(3, 2, sigma=1.0, seed=9)
    made = []

    def denoise(x, sigma):
        made.append(MIXTURE.denoise(x, sigma))
        return made[-1]

    got = samplers.run(samplers.make(name, eta=eta), denoise, x, (2.0, 1.5), noise=lambda x: z)
    renewed = (got - made[-1] - 1.5 * z).abs().max() < 1e-12
    assert renewed == (eta == 5.0 and name != "dpmpp_sde")
    assert len(made) == samplers.make(name, eta=eta).nfe((2.0, 1.5))


def test_restart_goes_down_from_its_high_level_again():
    """Written out: Heun to the first level below `low`, noise up to `high`, Heun down the grid's own levels, on."""
    sigmas, heun = (10.0, 4.0, 1.0, 0.3, 0.08, 0.0), samplers.make("heun")
    x, z = start(2, 2, sigma=10.0), start(2, 2, sigma=1.0, seed=1)
    low = samplers.run(heun, MIXTURE.denoise, x, sigmas[:5])
    up = low + (2.0**2 - 0.08**2) ** 0.5 * z
    again = samplers.run(heun, MIXTURE.denoise, up, (2.0, 1.0, 0.3, 0.08))
    expected = samplers.run(heun, MIXTURE.denoise, again, (0.08, 0.0))
    got = samplers.run(samplers.make("restart"), MIXTURE.denoise, x, sigmas, noise=lambda x: z)
    torch.testing.assert_close(got, expected, atol=1e-12, rtol=0)
    rho = [(2.0 ** (1 / 7) + i / 3 * (0.08 ** (1 / 7) - 2.0 ** (1 / 7))) ** 7 for i in range(4)]
    again = samplers.run(heun, MIXTURE.denoise, up, rho)
    expected = samplers.run(heun, MIXTURE.denoise, again, (0.08, 0.0))
    got = samplers.run(samplers.make("restart", inner_steps=3), MIXTURE.denoise, x, sigmas, noise=lambda x: z)
    torch.testing.assert_close(got, expected, atol=1e-9, rtol=0)


# CFG++.


class Guided:
    """D_w = D(∅) + w (D(c) − D(∅)), with two mixtures for the conditional and the unconditional law."""

    def __init__(self, weight):
        self.weight = weight  # a function of σ

    def with_uncond(self, x, sigma):
        uncond = MIXTURE.denoise(x, sigma)
        return uncond + self.weight(sigma) * (MIXTURE.denoise(x + 1, sigma) - uncond), uncond

    def __call__(self, x, sigma):
        return self.with_uncond(x, sigma)[0]


@pytest.mark.parametrize("sigmas", GRIDS, ids=["to_zero", "uneven"])
def test_cfgpp_is_guidance_that_grows_as_steps_become_short(sigmas):
    """DDIM with CFG++ at λ is Euler with plain guidance at w = λ/(1 − σ⁺/σ)."""
    following, scale = dict(pairwise(sigmas)), 0.6
    plain = Guided(lambda sigma: scale / (1 - following[sigma] / sigma))
    x = start(3, 2, sigma=sigmas[0])
    expected = samplers.run(samplers.make("euler"), plain, x, sigmas)
    got = samplers.run(samplers.make("ddim_cfg_pp"), Guided(lambda sigma: scale), x, sigmas)
    torch.testing.assert_close(got, expected, atol=1e-11, rtol=0)


def test_cfgpp_with_full_noise_is_its_euler_ancestral():
    """x⁺ = D_w + σ_down (x − D_∅)/σ + σ_up z, with the levels of the ancestral step."""
    guided, x, z = Guided(lambda sigma: 0.6), start(3, 2, sigma=2.0), start(3, 2, sigma=1.0, seed=1)
    down, up = 1.2**2 / 2.0, 1.2 * (1 - 1.2**2 / 2.0**2) ** 0.5
    d_w, d_uncond = guided.with_uncond(x, 2.0)
    expected = d_w + down * (x - d_uncond) / 2.0 + up * z
    got = samplers.run(samplers.make("ddim_cfg_pp", eta=1.0), guided, x, (2.0, 1.2), noise=lambda x: z)
    torch.testing.assert_close(got, expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("variant", ["corrected", "published"])
def test_the_corrected_difference_vanishes_while_predictions_stay_as_they_are(variant):
    """Then a step is that of DDIM, up to a term of the authors' code, λ (D(c) − D(∅)) (1 − q) h/2h′."""
    x, cond, uncond = (start(3, 2, sigma=3.0, seed=seed) for seed in range(3))
    sigmas, scale = (3.0, 2.0, 1.2), 0.6

    class Constant(Guided):
        def with_uncond(self, x, sigma):
            return uncond + scale * (cond - uncond), uncond

    made = samplers.make("dpmpp_2m_cfg_pp", variant=variant), samplers.make("ddim_cfg_pp")
    got, plain = (samplers.run(sampler, Constant(None), x, sigmas) for sampler in made)
    extra = got - plain
    ratio = log(2.0 / 1.2) / (2 * log(3.0 / 2.0))
    factor = 0.0 if variant == "corrected" else (1 - 1.2 / 2.0) * ratio * scale
    torch.testing.assert_close(extra, factor * (cond - uncond), atol=1e-12, rtol=0)


@pytest.mark.parametrize("reach", [0.5, 1.0])
def test_rectified_cfgpp_is_the_papers_in_its_own_clock(reach):
    """x̄ = x/(1 + σ) at t = σ/(1 + σ), with v = ε − x̂₀, is a rectified flow."""
    guided, sigmas, alpha = Guided(lambda sigma: 1.0), (4.0, 1.5, 0.2, 0.0), 3.0

    def velocities(x, t):
        sigma = t / (1 - t)
        return ((x / t - prediction / t) for prediction in guided.with_uncond(x / (1 - t), sigma))

    x = start(3, 2, sigma=sigmas[0])
    flow = x / (1 + sigmas[0])
    times = [sigma / (1 + sigma) for sigma in sigmas]
    for t, t_next in pairwise(times):
        change, _ = velocities(flow, t)
        t_reached = t + reach * (t_next - t)
        if t_reached > 0:
            cond, uncond = velocities(flow + reach * (t_next - t) * change, t_reached)
            change = change + alpha * (cond - uncond)
        flow = flow + (t_next - t) * change
    got = samplers.run(samplers.make("rectified_cfg_pp", alpha=alpha, reach=reach), guided, x, sigmas)
    torch.testing.assert_close(got, flow, atol=1e-12, rtol=0)  # at σ = 0 both clocks have the same x


@pytest.mark.parametrize("reach", [0.0, 0.5, 1.0])
def test_rectified_cfgpp_converges_to_classifier_free_guidance_at_one_plus_alpha(reach):
    laws = tuple(
        Gaussian(torch.tensor(std).double(), torch.tensor(mean).double())
        for mean, std in (((0.8, 0.3), (0.5, 1.0)), ((-0.2, 0.0), (1.4, 0.9)))
    )

    class Pair(Guided):
        def with_uncond(self, x, sigma):
            return tuple(law.denoise(x, sigma) for law in laws)

    alpha, levels, x = 1.5, samplers.continuous_levels(0.05, 20.0), start(4, 2, sigma=20.0)
    exact = GuidedGaussian(laws, (1 + alpha, -alpha)).flow(x, 20.0, 0.05)

    def error(steps):
        sigmas = samplers.grid("exponential", steps=steps, levels=levels, ending="stop_at_sigma_min")
        got = samplers.run(samplers.make("rectified_cfg_pp", alpha=alpha, reach=reach), Pair(None), x, sigmas)
        return float((got - exact).norm())

    assert log2(error(400) / error(800)) == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("name", ["ddim_cfg_pp", "dpmpp_2m_cfg_pp", "rectified_cfg_pp"])
def test_cfgpp_without_a_guided_denoiser_is_an_error(name):
    with pytest.raises(ValueError, match=rf"{name} needs a guided denoiser, with a method with_uncond"):
        samplers.run(samplers.make(name), MIXTURE.denoise, start(1, 2, sigma=2.0), (2.0, 1.0))
