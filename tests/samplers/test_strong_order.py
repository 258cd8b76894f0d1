"""On one Brownian path stochastic samplers converge to one picture, at strong order 1, and to each other."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from sampler_problems import MIXTURE

import samplers
from samplers.denoiser import Unguided
from samplers.exact.law import strong_errors
from samplers.exact.problems import Gaussian

DATA = Gaussian(std=torch.tensor([0.5]).double(), mean=torch.tensor([0.4]).double())
LEVELS = samplers.continuous_levels(0.05, 10.0)
CASES = [
    ("ddim", {"eta": 0.5}),
    ("ddpm", {}),
    ("dpm2_ancestral", {}),
    ("dpmpp_2m_sde", {}),
    ("dpmpp_2m_sde", {"eta": 0.4}),
    ("dpmpp_2s_ancestral", {"eta": 0.6}),
    ("dpmpp_3m_sde", {}),
    ("dpmpp_sde", {}),
    ("edm_heun", {}),
    ("er_sde", {}),
    ("sa_solver", {"tau": 0.8}),
    ("seeds_2", {"eta": 0.4}),
    ("seeds_3", {}),
    ("sit_sde", {}),
]
# All of these follow the reverse SDE with η = 1, driven by the same path.
REVERSE = [
    ("ddpm", {}),
    ("dpm2_ancestral", {}),
    ("dpmpp_2m_sde", {}),
    ("dpmpp_2s_ancestral", {}),
    ("dpmpp_3m_sde", {}),
    ("dpmpp_sde", {}),
    ("er_sde", {"scale": "sde"}),
    ("sa_solver", {}),
    ("seeds_2", {}),
    ("seeds_3", {}),
    ("sit_sde", {"diffusion": "sbdm"}),
]


def grid(steps):
    return samplers.grid("exponential", steps=steps, levels=LEVELS, ending="stop_at_sigma_min")


@pytest.mark.parametrize(("name", "options"), CASES, ids=str)
def test_the_picture_converges_at_strong_order_one(name, options):
    """√E|x_n − x_256|² on Gaussian data, exactly: it halves with the step, as additive noise allows at best."""
    rule, steps = samplers.make(name, **options), (16, 64)
    errors = strong_errors(rule, DATA, [grid(n) for n in steps], grid(256))
    assert -np.polyfit(np.log(steps), np.log(errors), 1)[0] == pytest.approx(1, abs=0.2)


def test_fresh_noise_never_converges_to_a_picture():
    """The same runs with noise that is independent of the levels are as far apart at 256 steps as at 64."""
    rule, like = samplers.make("dpmpp_2m_sde"), torch.empty(1, 2000, dtype=torch.float64)
    x = 10 * samplers.philox([0])(like)
    ends = [samplers.run(rule, DATA.denoise, x, grid(n), noise=samplers.philox([1])) for n in (64, 128, 256, 512)]
    assert (ends[2] - ends[3]).std() > 0.8 * (ends[0] - ends[1]).std()


def pixelwise(x, sigma):
    """A picture of 1-D mixtures: the denoiser of each pixel by itself."""
    return MIXTURE.denoise(x.reshape(-1, 2), sigma).view_as(x)


def picture(name, options, steps, noise=samplers.brownian_path):
    path = noise([4])
    x = 10 * path(torch.empty(1, 800, dtype=torch.float64))
    return samplers.run(samplers.make(name, **options), Unguided(pixelwise), x, grid(steps), noise=path)


@pytest.mark.parametrize(("name", "options"), [REVERSE[2], REVERSE[-2], ("edm_heun", {})], ids=str)
def test_pictures_of_a_mixture_converge_on_the_path(name, options):
    """The median pixel. A few pixels are on the boundary between two components and take many steps to decide."""
    steps = (16, 32, 64, 128, 256)
    ends = [picture(name, options, n) for n in steps]
    gaps = [(a - b).abs().median().item() for a, b in pairwise(ends)]
    assert -np.polyfit(np.log(steps[:-1]), np.log(gaps), 1)[0] == pytest.approx(1, abs=0.2)


def test_all_samplers_of_the_reverse_equation_make_one_picture():
    """Ten samplers, one seed, one picture: apart at 8 steps, and less than a tenth of that at 128."""
    few, many = (torch.cat([picture(*case, steps) for case in REVERSE]) for steps in (8, 128))
    apart = [(pictures - pictures.mean(0)).abs().mean().item() for pictures in (few, many)]
    assert apart[1] < 0.1 * apart[0]
    assert apart[1] < 0.02 * many.std()
