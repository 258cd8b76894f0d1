"""What each grid is even in, on any model's levels; blends, explicit lists, and the numbers of other projects."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sampler_problems import SD
from scipy import stats

import samplers

WIDE = samplers.edm_levels(0.002, 80.0)
FLOW = samplers.flow_levels()
FREE = ("beta_sigma", "blend", "bong_tangent", "exponential", "flow", "karras", "kl_optimal", "laplace",
        "linear_quadratic", "polyexponential")  # fmt: skip
TIMED = ("beta", "beta57", "linspace", "sgm_uniform", "time_quadratic")
CLOCKS = {
    "discrete": SD,
    "edm": WIDE,
    "flow": FLOW,
    "ve": samplers.ve_levels(),
    "vp": samplers.vp_levels(),
    "zero_snr": samplers.zero_terminal_snr(SD),
}


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(FREE),
    steps=st.integers(1, 300),
    low=st.floats(1e-4, 0.5),
    ratio=st.floats(2.0, 1e5),
    ending=st.sampled_from(samplers.ENDINGS),
)
def test_any_range_of_levels_gives_a_falling_grid_inside_it(name, steps, low, ratio, ending):
    levels = samplers.continuous_levels(low, low * ratio)
    sigmas = samplers.grid(name, steps=steps, levels=levels, ending=ending)
    positive = sigmas if ending == "stop_at_sigma_min" else sigmas[:-1]
    assert len(sigmas) == steps + 1
    assert all(a > b for a, b in pairwise(sigmas))
    assert positive[0] == levels.sigma_max
    assert positive[-1] >= levels.sigma_min


@pytest.mark.parametrize("clock", CLOCKS)
@pytest.mark.parametrize("name", TIMED)
@pytest.mark.parametrize("steps", [1, 2, 7, 50])
def test_grids_in_time_work_on_every_clock(name, clock, steps):
    levels = CLOCKS[clock]
    sigmas = samplers.grid(name, steps=steps, levels=levels)
    assert sigmas[0] == levels.sigma_max
    assert len(sigmas) == steps + 1
    assert sigmas[-2] >= levels.sigma_min


def shares(sigmas, levels):
    """How far along its time each positive level lies, 1 at the top."""
    return (np.array([levels.t(s) for s in sigmas[:-1]]) - levels.t_min) / (levels.t_max - levels.t_min)


@pytest.mark.parametrize("clock", CLOCKS)
def test_grids_in_time_have_their_spacing(clock):
    levels, n = CLOCKS[clock], 12
    even = np.arange(n)
    got = {name: shares(samplers.grid(name, steps=n, levels=levels), levels) for name in TIMED}
    np.testing.assert_allclose(got["linspace"], 1 - even / (n - 1), atol=1e-9)
    np.testing.assert_allclose(got["sgm_uniform"], 1 - even / n, atol=1e-9)
    np.testing.assert_allclose(np.sqrt(np.abs(got["time_quadratic"])), 1 - even / (n - 1), atol=1e-5)
    np.testing.assert_allclose(stats.beta(0.6, 0.6).cdf(got["beta"].clip(0, 1)), 1 - even / n, atol=1e-6)
    np.testing.assert_allclose(stats.beta(0.5, 0.7).cdf(got["beta57"].clip(0, 1)), 1 - even / n, atol=1e-6)


def test_grids_in_sigma_have_their_spacing():
    n = 15
    fall = 1 - np.arange(n) / (n - 1)

    def levels_of(name, **options):
        return np.array(samplers.grid(name, steps=n, levels=WIDE, **options)[:-1])

    def share(values):
        return (values - values[-1]) / (values[0] - values[-1])

    np.testing.assert_allclose(share(np.log(levels_of("polyexponential", rho=3.0))), fall**3, atol=1e-12)
    np.testing.assert_allclose(share(np.arctan(levels_of("kl_optimal"))), fall, atol=1e-12)
    np.testing.assert_allclose(share(np.arctan(levels_of("kl_optimal", std=0.5) / 0.5)), fall, atol=1e-12)
    law = stats.beta(0.4, 1.3)
    np.testing.assert_allclose(law.cdf(share(levels_of("beta_sigma", alpha=0.4, beta=1.3))), fall, atol=1e-9)
    law = stats.laplace(-0.3, 0.8)
    np.testing.assert_allclose(share(law.cdf(np.log(levels_of("laplace", mu=-0.3, beta=0.8)))), fall, atol=1e-9)


@pytest.mark.parametrize("shift", [1.0, 3.0, 0.5])
def test_flow_is_even_in_the_time_before_its_shift(shift):
    """Esser et al. 2024, eq. 23, undone: u = t/(shift − (shift − 1) t)."""
    sigmas = np.array(samplers.grid("flow", steps=8, levels=FLOW, shift=shift, ending="stop_at_sigma_min"))
    t = sigmas / (1 + sigmas)
    u = t / (shift - (shift - 1) * t)
    np.testing.assert_allclose(np.diff(u), np.diff(u)[0], rtol=1e-9)


def test_flow_without_shift_is_sgm_uniform_on_a_flow():
    for steps in (1, 5, 40):
        sigmas = samplers.grid("flow", steps=steps, levels=FLOW)
        assert sigmas == pytest.approx(samplers.grid("sgm_uniform", steps=steps, levels=FLOW), rel=1e-9)


@pytest.mark.parametrize("n", [2, 3, 8, 30])
def test_bong_tangent_is_two_arctangents_that_meet_in_the_middle(n):
    """RES4LYF's formula with its defaults, written out, in the time of a flow."""

    def arctangent(count, centre, high, low):
        values = np.array([(2 / np.pi * np.arctan(-0.2 / ((n + 2) / 40) * (i - centre)) + 1) / 2 for i in range(count)])
        return (values - values[-1]) / (values[0] - values[-1]) * (high - low) + low

    turn = int((n + 2) * 0.6)
    expected = [*arctangent(turn, turn, 1.0, 0.5)[:-1], *arctangent(n + 2 - turn, 0, 0.5, 0.0)]
    sigmas = np.array(samplers.grid("bong_tangent", steps=n, levels=FLOW)[:-1])
    t = sigmas / (1 + sigmas)
    np.testing.assert_allclose((t - FLOW.t_min) / (FLOW.t_max - FLOW.t_min), expected[:-1], atol=1e-9)
    assert expected[-1] == 0
    assert samplers.grid("bong_tangent", steps=n, levels=SD)[0] == SD.sigma_max


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"middle": 1.0}, "bong_tangent.middle must be between 0 and 1, got 1.0"),
        ({"pivot": 0.01}, "bong_tangent.pivot must leave 2 points on either side at 10 steps, got 0.01"),
        ({"slope": 0.0}, "bong_tangent.slope must be in \\[0.001, 100\\], got 0.0"),
    ],
)
def test_bong_tangent_refuses_options_that_leave_a_part_empty(options, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        samplers.grid("bong_tangent", steps=10, levels=SD, **options)


def test_linear_quadratic_is_smooth_where_the_halves_meet():
    """With n steps: even below n/2, of constant second difference above, one slope at the joint, and 1 at the end."""
    n, threshold = 40, 0.025
    sigmas = np.array(samplers.grid("linear_quadratic", steps=n, levels=FLOW)[:-1])
    t = sigmas / (1 + sigmas)
    done = np.append((FLOW.t_max - t) / (FLOW.t_max - FLOW.t_min), 1.0)
    np.testing.assert_allclose(np.diff(done)[: n // 2], threshold / (n // 2), rtol=1e-9)
    curve = np.diff(done[n // 2 :], 2)
    np.testing.assert_allclose(curve, curve[0], rtol=1e-6)
    np.testing.assert_allclose(done[n // 2 + 1] - done[n // 2], threshold / (n // 2) + curve[0] / 2, rtol=1e-6)


@settings(max_examples=40, deadline=None)
@given(
    first=st.sampled_from(FREE), second=st.sampled_from(("karras", "trailing", "beta", "ays")), share=st.floats(0, 1)
)
def test_a_blend_lies_between_its_two_grids(first, second, share):
    one, other, mixed = (
        np.array(samplers.grid(name, steps=12, levels=SD, **options)[:-1])
        for name, options in ((first, {}), (second, {}), ("blend", {"first": first, "second": second, "share": share}))
    )
    assert (np.minimum(one, other) * (1 - 1e-12) <= mixed).all()
    assert (mixed <= np.maximum(one, other) * (1 + 1e-12)).all()


def test_the_ends_of_a_blend_are_its_two_grids():
    second = {"name": "karras", "rho": 3.0}
    for share, expected in ((0.0, {"name": "exponential"}), (1.0, second)):
        mixed = samplers.grid("blend", steps=9, levels=SD, first="exponential", second=second, share=share)
        assert mixed == pytest.approx(samplers.grid(steps=9, levels=SD, **expected), rel=1e-12)


def test_an_explicit_list_is_unchanged():
    assert samplers.grid("explicit", steps=3, levels=SD, sigmas=[7, 2.5, 0.1]) == (7.0, 2.5, 0.1, 0.0)
    stop = samplers.grid("explicit", steps=2, levels=SD, sigmas=[7, 2.5, 0.1], ending="stop_at_sigma_min")
    assert stop == (7.0, 2.5, 0.1)
    by_time = samplers.grid("explicit", steps=3, levels=SD, timesteps=[999, 400.5, 0])
    assert by_time == (SD.sigma_max, SD.sigma(400.5), SD.sigma_min, 0.0)


def test_the_published_table_is_unchanged_and_other_lengths_are_interpolated_log_linearly():
    table = [SD.sigmas[t] for t in (999, 850, 736, 645, 545, 455, 343, 233, 124, 24, 0)]
    assert samplers.grid("ays", steps=10, levels=SD) == (*table[:-1], 0.0)
    half = samplers.grid("ays", steps=5, levels=SD)
    assert half == pytest.approx((*table[:-1:2], 0.0), rel=1e-12)
    double = samplers.grid("ays", steps=20, levels=SD)
    assert double[1] == pytest.approx(math.sqrt(table[0] * table[1]), rel=1e-12)
    video = samplers.grid("ays", steps=10, levels=samplers.edm_levels(0.002, 700.0), table="svd")
    assert video[1:3] == (54.5, 15.886)


# Other projects' numbers.


@pytest.mark.parametrize(("asked", "given_"), [(10, 10), (15, 16), (30, 31), (35, 36), (45, 46), (60, 63)])
def test_comfyuis_uniform_stride_gives_more_steps_than_asked(asked, given_):
    sigmas = samplers.grid("ddim_uniform", steps=asked, levels=SD, dialect="comfyui")
    assert len(sigmas) == given_ + 1
    times = [SD.t(sigma) for sigma in sigmas[:-1]]
    np.testing.assert_allclose(times, range(1, 1000, 1000 // asked)[::-1], atol=1e-9)


def test_comfyuis_beta_drops_repeated_timesteps():
    assert len(samplers.grid("beta", steps=300, levels=SD, dialect="comfyui")) == 293 + 1
    assert len(samplers.grid("beta", steps=300, levels=SD)) == 300 + 1


def test_comfyuis_laplace_clamps_and_keeps_some_noise():
    sigmas = samplers.grid("laplace", steps=9, levels=SD, dialect="comfyui")
    shares_ = np.linspace(0, 1, 10)
    tails = np.log(1 - 2 * np.abs(0.5 - shares_) + 1e-5)
    expected = np.exp(-0.5 * np.sign(0.5 - shares_) * tails).clip(SD.sigma_min, SD.sigma_max)
    assert sigmas == pytest.approx(expected.tolist(), rel=1e-9)


def test_an_ending_asked_for_by_name_holds_in_every_dialect():
    grid = samplers.grid("kl_optimal", steps=10, levels=SD, dialect="a1111", ending="drop_penultimate")
    assert grid == samplers.grid("kl_optimal", steps=10, levels=SD, ending="drop_penultimate")


@pytest.mark.parametrize(("name", "dialect"), [("kl_optimal", "a1111"), ("laplace", "comfyui")])
def test_a_dialect_ends_its_grid_unless_an_ending_is_given(name, dialect):
    """ "to_zero" is an ending like the others: asked for, it holds."""
    theirs = samplers.grid(name, steps=10, levels=SD, dialect=dialect)
    assert theirs == samplers.grid(name, steps=10, levels=SD, dialect=dialect, ending="stop_at_sigma_min")
    assert theirs == samplers.grid(name, steps=10, levels=SD, dialect=dialect, ending=None)
    assert theirs[-1] > 0
    asked = samplers.grid(name, steps=10, levels=SD, dialect=dialect, ending="to_zero")
    assert asked[-1] == 0
    assert asked[:-1] == samplers.grid(name, steps=9, levels=SD, dialect=dialect)


def test_dialects_hold_no_grid_unknown_here():
    for grids in samplers.DIALECTS.values():
        assert set(grids) <= set(samplers.GRIDS)


# Equality with diffusers' set_timesteps. Their ᾱ is float32: half a unit of 6e-8 in 1 − ᾱ₀ = 8.5e-4 is 1.8e-5 of σ_min.

STEPS = pytest.mark.parametrize("steps", [5, 7, 10, 15, 20, 33, 50])
CONFIG = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}


def euler(steps, **config):
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.EulerDiscreteScheduler(**CONFIG, **config)
    scheduler.set_timesteps(steps)
    return scheduler


@STEPS
@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("linspace", {"timestep_spacing": "linspace"}),
        ("trailing", {"timestep_spacing": "trailing"}),
        ("leading", {"timestep_spacing": "leading", "steps_offset": 1}),
        ("karras", {"use_karras_sigmas": True}),
        ("exponential", {"use_exponential_sigmas": True}),
        ("beta", {"use_beta_sigmas": True}),
    ],
)
def test_the_dialect_has_the_sigmas_of_diffusers_euler(name, config, steps):
    options = {"offset": 1} if name == "leading" else {}
    ours = samplers.grid(name, steps=steps, levels=SD, dialect="diffusers", **options)
    np.testing.assert_allclose(ours, euler(steps, **config).sigmas.numpy(), rtol=2e-5)


@STEPS
@pytest.mark.parametrize("name", ["karras", "exponential"])
def test_grids_in_sigma_are_diffusers_without_a_dialect(name, steps):
    theirs = euler(steps, **{f"use_{name}_sigmas": True})
    ours = samplers.grid(name, steps=steps, levels=SD)
    np.testing.assert_allclose(ours, theirs.sigmas.numpy(), rtol=2e-5)
    np.testing.assert_allclose([SD.t(s) for s in ours[:-1]], theirs.timesteps.numpy(), atol=2e-2)


@STEPS
@pytest.mark.parametrize("spacing", ["linspace", "leading", "trailing"])
def test_diffusers_multistep_grids_are_a_choice_of_ending(spacing, steps):
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.DPMSolverMultistepScheduler(
        **CONFIG, timestep_spacing=spacing, steps_offset=0 if spacing == "trailing" else 1
    )
    scheduler.set_timesteps(steps)
    ending = "to_zero" if spacing == "trailing" else "drop_penultimate"
    options = {"offset": 1} if spacing == "leading" else {}
    ours = samplers.grid(spacing, steps=steps, levels=SD, ending=ending, **options)
    times = [SD.t(sigma) for sigma in ours[:-1]]
    np.testing.assert_allclose(times, scheduler.timesteps.numpy(), atol=0.5 + 1e-6)  # theirs are rounded
    if spacing != "linspace":
        np.testing.assert_allclose(ours, scheduler.sigmas.numpy(), rtol=2e-5)


@STEPS
@pytest.mark.parametrize("spacing", ["linspace", "leading", "trailing"])
def test_timesteps_are_diffusers_ddim(spacing, steps):
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.DDIMScheduler(**CONFIG, timestep_spacing=spacing)
    scheduler.set_timesteps(steps)
    times = [SD.t(sigma) for sigma in samplers.grid(spacing, steps=steps, levels=SD)[:-1]]
    np.testing.assert_allclose(times, scheduler.timesteps.numpy(), atol=0.5 if spacing == "linspace" else 1e-6)


@STEPS
@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_flow_is_diffusers_flow_match_euler(shift, steps):
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(steps)
    ours = np.array(samplers.grid("flow", steps=steps, levels=FLOW, shift=shift, dialect="diffusers"))
    theirs = scheduler.sigmas.double().numpy()
    np.testing.assert_allclose((ours / (1 + ours))[1:], theirs[1:], rtol=2e-5)
    assert theirs[0] == 1.0  # where σ is infinite


def test_diffusers_has_the_printed_ays_table():
    utils = pytest.importorskip("diffusers.schedulers.scheduling_utils")
    for table, key in (("sd15", "StableDiffusion"), ("sdxl", "StableDiffusionXL")):
        ours = samplers.grid("ays", steps=10, levels=SD, table=table, dialect="diffusers")
        assert list(ours) == utils.AysSchedules[f"{key}Sigmas"]
        times = [SD.t(s) for s in samplers.grid("ays", steps=10, levels=SD, table=table)[:-1]]
        np.testing.assert_allclose(times, utils.AysSchedules[f"{key}Timesteps"], atol=1e-9)


def test_grids_stay_on_the_host():
    assert not any(isinstance(s, torch.Tensor) for name in FREE for s in samplers.grid(name, steps=3, levels=SD))
