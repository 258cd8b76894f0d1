"""The clock of a flow: Runge–Kutta methods in the time of x_t = (1 − t) x₀ + t ε, and diffusers' Heun for flows."""

import math
from itertools import pairwise

import pytest
import torch
from sampler_problems import MIXTURE, SPECTRUM, start

import samplers

TIMES = (0.98, 0.7, 0.42, 0.2, 0.05)
SIGMAS = tuple(t / (1 - t) for t in TIMES)


def velocity(x_t, t):
    """v = ε̂ − x̂₀ at the state of the flow."""
    x0 = MIXTURE.denoise(x_t / (1 - t), t / (1 - t))
    return (x_t - (1 - t) * x0) / t - x0


def heun(x_t, t, t_next):
    v = velocity(x_t, t)
    return x_t + (t_next - t) * (v + velocity(x_t + (t_next - t) * v, t_next)) / 2


def midpoint(x_t, t, t_next):
    middle = math.sqrt(t * t_next)
    return x_t + (t_next - t) * velocity(x_t + (middle - t) * velocity(x_t, t), middle)


@pytest.mark.parametrize(("name", "method"), [("heun", heun), ("dpm2", midpoint)])
def test_the_steps_are_those_of_the_method_on_the_state_of_the_flow(name, method):
    x = start(3, 2, sigma=SIGMAS[0])
    expected, states = x * (1 - TIMES[0]), []
    samplers.run(
        samplers.make(name, clock="flow"), MIXTURE.denoise, x, SIGMAS, on_step=lambda _, state: states.append(state)
    )
    for (t, t_next), state in zip(pairwise(TIMES), states, strict=True):
        expected = method(expected, t, t_next)
        torch.testing.assert_close(state * (1 - t_next), expected, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("name", ["heun", "dpm2"])
def test_the_step_to_zero_is_euler_s_with_one_call(name):
    x, rule = start(3, 2, sigma=2.0), samplers.make(name, clock="flow")
    assert samplers.run(rule, MIXTURE.denoise, x, (2.0, 0.0)).equal(MIXTURE.denoise(x, 2.0))
    assert rule.nfe((2.0, 1.0, 0.0)) == 3


def test_the_ancestral_step_takes_the_clock_of_its_inner_step():
    """With η = 0 it is the inner step."""
    x = start(3, 2, sigma=SIGMAS[0])
    ours, inner = (
        samplers.run(samplers.make(name, clock="flow", **options), MIXTURE.denoise, x, SIGMAS)
        for name, options in (("dpm2_ancestral", {"eta": 0.0}), ("dpm2", {}))
    )
    torch.testing.assert_close(ours, inner, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize("steps", [4, 15])
def test_heun_is_diffusers_scheduler_of_flows(steps, shift):
    schedulers = pytest.importorskip("diffusers.schedulers")
    scheduler = schedulers.FlowMatchHeunDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(steps)
    times = scheduler.sigmas.double()
    times[0] = 0.99  # theirs starts at t = 1, where σ is infinite
    scheduler.sigmas = times
    x = start(3, 2, sigma=99.0)
    x_t = 0.01 * x
    for i, t in enumerate(scheduler.timesteps):
        x_t = scheduler.step(velocity(x_t.double(), float(times[i])), t, x_t).prev_sample
    levels = [float(t / (1 - t)) for t in dict.fromkeys(times.tolist())]
    ours = samplers.run(samplers.make("heun", clock="flow"), MIXTURE.denoise, x, levels)
    torch.testing.assert_close(ours, x_t.double(), atol=2e-6, rtol=2e-6)  # the scheduler keeps float32


def test_from_almost_pure_noise_it_follows_the_flow_where_heun_in_sigma_does_not():
    """From t = 0.9999 in ten steps: a parabola in σ leaves the data, one in t does not."""
    levels = samplers.flow_levels()
    sigmas = samplers.grid("flow", steps=10, levels=levels)
    x = start(64, 3, sigma=sigmas[0])
    exact = SPECTRUM.flow(x, sigmas[0], sigmas[-2])

    def error(**options):
        got = samplers.run(samplers.make("heun", **options), SPECTRUM.denoise, x, sigmas[:-1])
        return float((got - exact).square().mean().sqrt())

    assert error(clock="flow") < 0.1
    assert error() > 1


@pytest.mark.parametrize("name", ["heun", "dpm2", "dpm2_ancestral"])
def test_an_unknown_clock_is_refused(name):
    with pytest.raises(ValueError, match=r"\.clock must be one of 'sigma', 'flow', got 'time'"):
        samplers.make(name, clock="time")
