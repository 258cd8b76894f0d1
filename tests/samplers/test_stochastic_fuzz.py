"""Edge cases of stochastic samplers: few and many steps, close and small levels, no image, half precision."""

import math

import pytest
import torch
from sampler_problems import SPECTRUM, start

import samplers
from samplers.denoiser import Unguided

RULES = [
    ("ddim", {"eta": 0.7, "clip": 1.5, "clip_noise": False}),
    ("ddim_cfg_pp", {"eta": 1.0}),
    ("ddpm", {"clip": 1.5}),
    ("dpm2_ancestral", {"eta": 1.5}),
    ("dpm_2m_sde", {}),
    ("dpm_2m_sde", {"eta": 2.0, "solver": "heun"}),
    ("dpmpp_2m_cfg_pp", {}),
    ("dpmpp_2m_sde", {"eta": 3.0}),
    ("dpmpp_2m_sde", {"solver": "heun"}),
    ("dpmpp_2s_ancestral", {"eta": 1.5}),
    ("dpmpp_3m_sde", {}),
    ("dpmpp_3m_sde", {"variant": "published", "eta": 0.1}),
    ("dpmpp_sde", {"eta": 2.0}),
    ("dpmpp_sde", {"r1": 0.01}),
    ("dpmpp_sde", {"r1": 0.99, "eta": 0.5}),
    ("edm_euler", {"s_churn": 80.0}),
    ("edm_heun", {"s_churn": 80.0, "s_noise": 1.007}),
    *(("er_sde", {"scale": scale}) for scale in ("sde", "er_sde_1", "er_sde_3", "er_sde_4", "er_sde_5")),
    ("lcm", {}),
    ("rectified_cfg_pp", {}),
    ("rectified_cfg_pp", {"reach": 1.0}),
    ("restart", {"repeats": 2}),
    ("restart", {"low": 1e-6, "high": 1e-5}),
    ("restart", {"inner_steps": 6}),
    ("sa_solver", {"tau": 2.0}),
    ("sa_solver", {"predictor": 4, "corrector": 4, "pece": True}),
    ("sa_solver", {"on": "noise", "pece": True}),
    ("seeds_2", {"eta": 3.0}),
    ("seeds_3", {}),
    ("sit_sde", {}),
    ("sit_sde", {"diffusion": "decreasing", "norm": 0.5, "last": "mean"}),
    ("tcd", {}),
    ("tcd", {"gamma": 1.0}),
]
EVERY = pytest.mark.parametrize(("name", "options"), RULES, ids=str)
NOISE = pytest.mark.parametrize("noise", [samplers.seeded, samplers.brownian_path], ids=["fresh", "path"])
LEVELS = samplers.continuous_levels(0.01, 100.0)


def go(name, options, sigmas, noise, x=None):
    x = start(1, 3, sigma=sigmas[0]).float() if x is None else x
    rule, denoise = samplers.make(name, **options), Unguided(SPECTRUM.denoise)
    return samplers.run(rule, denoise, x, sigmas, noise=noise(range(len(x))))


@NOISE
@EVERY
def test_few_steps(name, options, noise):
    for steps in (1, 2):
        for ending in samplers.ENDINGS:
            sigmas = samplers.grid("karras", steps=steps, levels=LEVELS, ending=ending)
            assert go(name, options, sigmas, noise).isfinite().all()


@EVERY
def test_a_thousand_steps(name, options):
    out = go(name, options, samplers.grid("karras", steps=1000, levels=LEVELS), samplers.seeded)
    assert ((out - SPECTRUM.mean).abs() < 6 * SPECTRUM.std).all()


@NOISE
@EVERY
def test_levels_that_go_to_zero(name, options, noise):
    sigmas = [10.0 ** (1 - k) for k in range(14)]
    for grid in (sigmas, [*sigmas, 0.0], [5e-324, 0.0], [1.0, 1e-36], [1.0, 1e-30, 0.0]):
        assert go(name, options, grid, noise).isfinite().all()


@NOISE
@EVERY
def test_levels_next_to_each_other(name, options, noise):
    """Neighbouring floats, followed by steps a million times as long."""
    below = math.nextafter(0.05, 0.0)
    sigmas = (3.0, math.nextafter(3.0, 0.0), 2.9, 2.9 * (1 - 1e-12), 0.05, below, math.nextafter(below, 0.0), 0.04)
    x = start(1, 3, sigma=sigmas[0])
    assert go(name, options, sigmas, noise, x).isfinite().all()


@NOISE
@EVERY
def test_an_empty_batch_works(name, options, noise):
    sigmas = samplers.grid("karras", steps=6, levels=LEVELS)
    assert go(name, options, sigmas, noise, torch.empty(0, 3)).shape == (0, 3)


@NOISE
@EVERY
def test_half_precision_is_lifted(name, options, noise):
    sigmas = samplers.grid("karras", steps=6, levels=LEVELS)
    x = start(2, 3, sigma=sigmas[0]).half()
    half, single = (go(name, options, sigmas, noise, given) for given in (x, x.float()))
    assert half.dtype == torch.float32
    assert torch.equal(half, single)


SLIPS = [
    ("dpm2_ancestral", {"eta": -0.1}, "DPM2Ancestral.eta must be a number of at least 0, got -0.1"),
    ("dpmpp_2m_sde", {"solver": "euler"}, "DPMpp2MSDE.solver must be one of 'midpoint', 'heun', got 'euler'"),
    ("dpmpp_3m_sde", {"variant": "right"}, "DPMpp3MSDE.variant must be one of 'corrected', 'published', 'diffusers'"),
    ("ddim", {"clip_noise": 1}, "DDIM.clip_noise must be True or False, got 1"),
    ("ddpm", {"clip": 0.0}, "DDPM.clip must be a number above 0, got 0.0"),
    ("ddpm", {"clip": math.nan}, "DDPM.clip must be a number above 0, got nan"),
    ("dpm_2m_sde", {"eta": -1.0}, "DPMSolver2MSDE.eta must be a number of at least 0, got -1.0"),
    ("dpmpp_sde", {"r1": 1.0}, "DPMppSDE.r1 must be in [0.01, 0.99], got 1.0"),
    ("dpmpp_sde", {"variant": 1}, "DPMppSDE.variant must be one of 'corrected', 'published', got 1"),
    ("edm_heun", {"s_churn": -1.0}, "EDMHeun.s_churn must be a number of at least 0, got -1.0"),
    ("edm_heun", {"s_tmin": 2.0, "s_tmax": 1.0}, "EDMHeun.s_tmax must be a number of at least 2.0, got 1.0"),
    ("er_sde", {"stages": 4}, "ERSDE.stages must be one of 1, 2, 3, got 4"),
    ("er_sde", {"scale": "er_sde5"}, "unknown ERSDE.scale 'er_sde5' (did you mean 'er_sde_5'?)"),
    ("restart", {"low": 3.0}, "Restart.high must be above low = 3.0, got 2.0"),
    ("restart", {"inner_steps": 0}, "Restart.inner_steps must be an integer of at least 1, got 0"),
    ("sa_solver", {"on": "eps"}, "SASolver.on must be one of 'data', 'noise', got 'eps'"),
    ("sa_solver", {"predictor": 0}, "SASolver.predictor must be one of 1, 2, 3, 4, got 0"),
    ("sa_solver", {"tau": math.nan}, "SASolver.tau must be a number of at least 0, got nan"),
    ("seeds_2", {"eta": True}, "SEEDS2.eta must be a number of at least 0, got True"),
]


@pytest.mark.parametrize(("name", "options", "line"), SLIPS, ids=str)
def test_a_mistake_is_reported_in_one_line(name, options, line):
    with pytest.raises(ValueError) as caught:
        samplers.make(name, **options)
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)
