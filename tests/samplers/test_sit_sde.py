"""SiT's SDE: the Euler–Maruyama step in the paper's own time, its last step, its grid, and the moments it leaves."""

import math
from itertools import pairwise

import pytest
import torch
from sampler_problems import MIXTURE, start

import samplers
from samplers.exact.law import laws
from samplers.exact.problems import Gaussian

# The diffusion of the authors' code, half of w, in its time: 0 is noise and 1 the data.
DIFFUSION = {
    "constant": lambda t: 1.0,
    "sbdm": lambda t: (1 - t) ** 2 / t + (1 - t),  # σ² α̇/α − σ σ̇
    "sigma": lambda t: 1 - t,
    "decreasing": lambda t: 0.25 * (math.cos(math.pi * t) + 1) ** 2,
    "increasing_decreasing": lambda t: math.sin(math.pi * t) ** 2,
}
TIMES = (0.05, 0.3, 0.55, 0.8, 0.96)
SIGMAS = tuple((1 - t) / t for t in TIMES)


def drift(x_t, t, diffusion):
    """v + (w/2) s of x_t = t x₀ + (1 − t) ε, the time of the authors' code."""
    x0 = MIXTURE.denoise(x_t / t, (1 - t) / t)
    eps = (x_t - t * x0) / (1 - t)
    return x0 - eps + diffusion(t) * -eps / (1 - t)


@pytest.mark.parametrize("name", DIFFUSION)
def test_the_steps_are_those_of_the_paper(name):
    x, z = start(3, 2, sigma=SIGMAS[0]), start(3, 2, sigma=1.0, seed=9)
    states = []
    samplers.run(
        samplers.make("sit_sde", diffusion=name), MIXTURE.denoise, x, SIGMAS, noise=lambda like: z,
        on_step=lambda _, state: states.append(state.clone()),
    )  # fmt: skip
    x_t = TIMES[0] * x
    for (t, t_next), state in zip(pairwise(TIMES), states, strict=True):
        dt = t_next - t
        x_t = x_t + dt * drift(x_t, t, DIFFUSION[name]) + math.sqrt(2 * DIFFUSION[name](t) * dt) * z
        torch.testing.assert_close(t_next * state, x_t, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("name", DIFFUSION)
def test_the_last_step_is_the_mean_of_the_sde_or_a_step_of_the_flow(name):
    sigma, t = SIGMAS[-1], TIMES[-1]
    x = start(3, 2, sigma=sigma)
    ends = {
        last: samplers.run(
            samplers.make("sit_sde", diffusion=name, last=last), MIXTURE.denoise, x, (sigma, 0.0), noise=torch.ones_like
        )
        for last in ("mean", "ode")
    }
    torch.testing.assert_close(ends["mean"], t * x + (1 - t) * drift(t * x, t, DIFFUSION[name]), atol=1e-12, rtol=0)
    torch.testing.assert_close(ends["ode"], MIXTURE.denoise(x, sigma), atol=1e-12, rtol=0)


def test_the_grid_of_the_paper_is_even_in_time_to_four_hundredths_and_then_takes_one_step():
    sigmas = samplers.grid("flow", steps=250, levels=samplers.flow_levels(1e-3, 0.999), last=0.04)
    times = [sigma / (1 + sigma) for sigma in sigmas]
    assert times[-2:] == [pytest.approx(0.04), 0]
    gaps = [a - b for a, b in pairwise(times[:-1])]
    assert min(gaps) == pytest.approx((0.999 - 0.04) / 249, rel=1e-6)
    assert max(gaps) == pytest.approx(min(gaps), rel=1e-6)


@pytest.mark.parametrize("last", [0.0, 1.0, -0.1])
def test_a_last_time_outside_the_schedule_is_refused(last):
    with pytest.raises(ValueError, match=r"flow\.last must be a time above 0 and below 0\.9999, that of sigma_max"):
        samplers.grid("flow", steps=5, levels=samplers.flow_levels(), last=last)


def test_a_shift_leaves_the_last_time():
    sigmas = samplers.grid("flow", steps=5, levels=samplers.flow_levels(), last=0.1, shift=3.0)
    assert sigmas[-2] == pytest.approx(0.1 / 0.9)


def test_without_noise_it_is_euler():
    x = start(3, 2, sigma=SIGMAS[0])
    rule = samplers.make("sit_sde", norm=0.0)
    assert not rule.stochastic
    ours, euler = (samplers.run(one, MIXTURE.denoise, x, SIGMAS) for one in (rule, samplers.make("euler")))
    torch.testing.assert_close(ours, euler, atol=1e-12, rtol=0)
    assert samplers.make("sit_sde", norm=0.0, diffusion="decreasing").stochastic


@pytest.mark.parametrize("name", DIFFUSION)
def test_the_moments_on_gaussian_data_follow_the_recursion(name):
    """x_t has ε̂ − E ε̂ = (1 − t) (x_t − E x_t)/var, so that a step multiplies the deviation and adds 2 D dt."""
    mean, std = 0.4, 0.6
    data = Gaussian(*(torch.tensor([value], dtype=torch.float64) for value in (std, mean)))
    variance = (TIMES[0] * std) ** 2 + (1 - TIMES[0]) ** 2
    found = laws(samplers.make("sit_sde", diffusion=name), data, SIGMAS)
    for (t, t_next), law in zip(pairwise(TIMES), found, strict=True):
        dt, half, total = t_next - t, DIFFUSION[name](t), (t * std) ** 2 + (1 - t) ** 2
        gain = 1 + dt * (t * std**2 - (1 - t) - half) / total  # v − E v = (t std² − (1 − t)) (x_t − E x_t)/var
        variance = gain**2 * variance + 2 * half * dt
        assert float(law.mean) == pytest.approx(mean, rel=1e-10)
        assert float(law.variance) == pytest.approx(variance / t_next**2, rel=1e-10)


@pytest.mark.parametrize("name", DIFFUSION)
def test_a_step_adds_too_much_noise_by_the_square_of_its_length(name):
    """On data at one point the variance of x_t should be (1 − t)²; with w = 2 D it is h² (w/σ + w²/4σ²) above that."""
    point = Gaussian(*(torch.zeros(1, dtype=torch.float64) for _ in range(2)))
    [law] = laws(samplers.make("sit_sde", diffusion=name), point, SIGMAS[1:3])
    t, t_next = TIMES[1:3]
    ratio = 2 * DIFFUSION[name](t) / (1 - t)
    expected = (1 - t_next) ** 2 + (t_next - t) ** 2 * (ratio + ratio**2 / 4)
    assert float(law.variance) == pytest.approx(expected / t_next**2, rel=1e-10)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"diffusion": "linear"}, r"SiTSDE\.diffusion must be one of 'constant', 'decreasing'"),
        ({"norm": -1.0}, r"SiTSDE\.norm must be in \[0, 100\], got -1\.0"),
        ({"last": "euler"}, r"SiTSDE\.last must be one of 'ode', 'mean', got 'euler'"),
    ],
)
def test_an_invalid_option_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        samplers.make("sit_sde", **options)
