"""Levels: tables of β against their definitions and diffusers, clocks against their processes, zero terminal SNR."""

import math
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sampler_problems import SD
from scipy.integrate import quad

import samplers

CLOCKS = [samplers.vp_levels(), samplers.ve_levels(), samplers.edm_levels(), samplers.flow_levels()]
TABLES = {
    "linear": samplers.discrete_levels("linear", 1e-4, 0.02),
    "scaled_linear": SD,
    "squaredcos_cap_v2": samplers.cosine_levels(),
    "sigmoid": samplers.discrete_levels("sigmoid", 1e-4, 0.02),
}


@pytest.mark.parametrize("schedule", TABLES)
def test_tables_are_diffusers(schedule):
    diffusers = pytest.importorskip("diffusers")
    ends = {"beta_start": 0.00085, "beta_end": 0.012} if schedule == "scaled_linear" else {}
    theirs = diffusers.DDPMScheduler(beta_schedule=schedule, **ends).alphas_cumprod.double().numpy()
    np.testing.assert_allclose(TABLES[schedule].alpha_bars, theirs, rtol=2e-4, atol=1e-12)


def test_cosine_is_a_squared_cosine_until_the_cap():
    levels = samplers.cosine_levels(500, offset=0.02)
    t = (np.arange(1, 501) / 500 + 0.02) / 1.02 * math.pi / 2
    start = math.cos(0.02 / 1.02 * math.pi / 2) ** 2
    np.testing.assert_allclose(levels.alpha_bars[:-1], (np.cos(t) ** 2 / start)[:-1], rtol=1e-9)
    assert levels.alpha_bars[-1] == pytest.approx(levels.alpha_bars[-2] * 0.001, rel=1e-9)
    assert samplers.discrete_levels("cosine", n=500) == samplers.cosine_levels(500)


def test_sigmoid_betas_rise_through_the_middle_of_their_ends():
    bars = np.array(samplers.discrete_levels("sigmoid", 0.001, 0.021, n=1001).alpha_bars)
    betas = 1 - bars[1:] / bars[:-1]
    assert betas[499] == pytest.approx(0.011, rel=1e-9)  # timestep 500 of 0 … 1000
    assert (np.diff(betas) > 0).all()


@settings(max_examples=40, deadline=None)
@given(clock=st.sampled_from(CLOCKS), share=st.floats(0, 1))
def test_time_and_sigma_are_inverse_on_every_clock(clock, share):
    t = min(clock.t_min + share * (clock.t_max - clock.t_min), clock.t_max)
    assert clock.t(clock.sigma(t)) == pytest.approx(t, rel=1e-9, abs=1e-12)
    assert clock.sigma_min <= clock.sigma(t) <= clock.sigma_max


@pytest.mark.parametrize("levels", [*CLOCKS, SD, samplers.continuous_levels(0.1, 10)])
def test_every_schedule_can_be_given_to_another_process(levels):
    other = pickle.loads(pickle.dumps(levels))
    for share in (0.0, 0.3, 1.0):
        sigma = levels.sigma_min * (levels.sigma_max / levels.sigma_min) ** share
        assert (other.sigma_min, other.sigma_max) == (levels.sigma_min, levels.sigma_max)
        if hasattr(levels, "t"):
            assert other.t(sigma) == levels.t(sigma)
            assert other.sigma(levels.t(sigma)) == levels.sigma(levels.t(sigma))


@pytest.mark.parametrize("t", [1e-3, 0.1, 0.7, 1.0])
def test_vp_is_the_integral_of_its_beta(t):
    """dx = −β x/2 dt + √β dw keeps ᾱ = exp(−∫β), and σ² = (1 − ᾱ)/ᾱ."""
    total, _ = quad(lambda u: 0.1 + 19.9 * u, 0, t)
    bar = math.exp(-total)
    assert samplers.vp_levels().sigma(t) == pytest.approx(math.sqrt((1 - bar) / bar), rel=1e-9)


def test_ve_is_geometric_edm_is_sigma_and_flow_is_the_ratio():
    ve = samplers.ve_levels(0.01, 50.0)
    assert ve.sigma(0.5) == pytest.approx(math.sqrt(0.01 * 50), rel=1e-12)
    assert samplers.edm_levels().sigma(3.5) == 3.5
    t = 0.25  # x_t = (1 − t) x₀ + t ε, over 1 − t
    assert samplers.flow_levels().sigma(t) == pytest.approx(t / (1 - t), rel=1e-12)


def test_a_sigma_outside_has_the_time_of_the_nearest_end():
    for clock in CLOCKS:
        assert (clock.t(0.0), clock.t(1e9)) == (clock.t_min, clock.t_max)


def test_zero_terminal_snr_is_algorithm_1():
    """The first ᾱ stays, the last is 0 but for the cap, and √ᾱ is moved by one affine map."""
    moved = samplers.zero_terminal_snr(SD)
    before, after = np.sqrt(SD.alpha_bars), np.sqrt(moved.alpha_bars)
    assert moved.sigmas[0] == SD.sigmas[0]
    assert moved.sigmas[-1] == 4096.0
    slope = np.diff(after[:-1]) / np.diff(before[:-1])
    np.testing.assert_allclose(slope, before[0] / (before[0] - before[-1]), rtol=1e-6)
    assert moved.sigmas[-2] == pytest.approx(2254, abs=1)
    assert moved.zero_snr
    assert not SD.zero_snr


def test_zero_terminal_snr_is_diffusers():
    diffusers = pytest.importorskip("diffusers")
    theirs = diffusers.EulerDiscreteScheduler(
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, rescale_betas_zero_snr=True,
        timestep_spacing="trailing", prediction_type="v_prediction",
    )  # fmt: skip
    theirs.set_timesteps(20)
    ours = samplers.grid("trailing", steps=20, levels=samplers.zero_terminal_snr(SD))
    np.testing.assert_allclose(ours, theirs.sigmas.numpy(), rtol=1e-3)  # their √ᾱ near 0 are float32


def test_zero_terminal_snr_rejects_noise_prediction():
    moved = samplers.zero_terminal_snr(SD)
    samplers.check_prediction(SD, "eps")
    samplers.check_prediction(moved, "v")
    samplers.check_prediction(moved, "x0")
    with pytest.raises(ValueError, match="zero terminal SNR need a model that predicts 'v' or 'x0'"):
        samplers.check_prediction(moved, "eps")


@pytest.mark.parametrize(
    ("slip", "line"),
    [
        (lambda: samplers.vp_levels(2.0, 1.0), "beta_max must be a number of at least 2.0, got 1.0"),
        (lambda: samplers.ve_levels(1.0, 1.0), "sigma_min must be below sigma_max, got 1.0 and 1.0"),
        (lambda: samplers.flow_levels(t_max=1.0), "t_max must be below 1, where σ is infinite, got 1.0"),
        (lambda: samplers.edm_levels(0.0), "sigma_min must be a number above 0, got 0.0"),
        (lambda: samplers.cosine_levels(cap=1.0), "cap must be between 0 and 1, got 1.0"),
        (lambda: samplers.zero_terminal_snr(SD, 1000.0), "above 2254.24, the level before it, got 1000.0"),
        (
            lambda: samplers.vp_levels().sigma(1.5),
            "time 1.5 is outside the noise schedule, which runs from 0.001 to",
        ),
    ],
)
def test_a_mistake_is_reported_in_one_line(slip, line):
    with pytest.raises(ValueError) as caught:
        slip()
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)
