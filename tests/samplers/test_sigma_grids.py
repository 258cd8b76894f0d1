"""Grids and the levels they are made of."""

import math
from itertools import pairwise, product

import numpy as np
import pytest
from sampler_problems import SD

import samplers

CONTINUOUS = samplers.continuous_levels(0.002, 80.0)
FLOW = samplers.flow_levels()
IN_TABLE = ("ddim_uniform", "leading", "simple", "trailing", "turbo")  # whole timesteps
IN_TIME = ("beta", "beta57", "linspace", "sgm_uniform", "time_quadratic")  # fractional ones
PRINTED = ("ays", "gits")  # for Stable Diffusion's levels alone
IN_SIGMA = (
    "beta_sigma", "blend", "bong_tangent", "exponential", "flow", "karras", "kl_optimal", "laplace",
    "linear_quadratic", "polyexponential",
)  # fmt: skip
ALL = (*IN_TABLE, *IN_TIME, *PRINTED, *IN_SIGMA)
SPANNING = ("beta_sigma", "blend", "exponential", "karras", "kl_optimal", "laplace", "linspace", "polyexponential",
            "time_quadratic")  # fmt: skip


def test_every_grid_is_tested_here():
    assert {*ALL, "explicit"} == set(samplers.GRIDS)


DROPPING, COMFY = {"offset": 1, "ending": "drop_penultimate"}, {"dialect": "comfyui"}
# Ten steps on Stable Diffusion v1's levels, to the digits of the reference implementations.
GOLDEN = [
    ("leading", {"offset": 1}, "8.391 5.134 3.348 2.293 1.624 1.168 .836 .574 .346 .041 0"),
    ("ddim_uniform", {}, "8.391 5.134 3.348 2.293 1.624 1.168 .836 .574 .346 .041 0"),
    ("linspace", {}, "14.615 7.840 4.609 2.918 1.950 1.345 .932 .625 .369 .029 0"),
    ("linspace", {"dialect": "diffusers"}, "14.615 7.840 4.609 2.918 1.950 1.345 .932 .625 .369 .029 0"),
    (
        "leading",
        {"offset": 1, "ending": "drop_penultimate"},
        "8.391 5.376 3.631 2.558 1.859 1.376 1.024 .752 .527 .324 0",
    ),
    ("trailing", {}, "14.615 8.303 5.088 3.321 2.276 1.613 1.161 .830 .569 .342 0"),
    ("simple", {}, "14.615 8.303 5.088 3.321 2.276 1.613 1.161 .830 .569 .342 0"),
    ("turbo", {}, "14.615 8.303 5.088 3.321 2.276 1.613 1.161 .830 .569 .342 0"),
    ("turbo", COMFY, "14.615 8.303 5.088 3.321 2.276 1.613 1.161 .830 .569 .342 0"),
    ("sgm_uniform", {}, "14.615 8.307 5.092 3.325 2.280 1.616 1.163 .832 .571 .344 0"),
    ("karras", {}, "14.615 9.103 5.478 3.169 1.749 .914 .447 .201 .082 .029 0"),
    ("exponential", {}, "14.615 7.325 3.671 1.840 .922 .462 .232 .116 .058 .029 0"),
    ("beta", COMFY, "14.615 11.543 7.372 4.373 2.615 1.618 1.027 .655 .396 .199 0"),
    ("beta_sigma", {}, "14.615 13.928 12.491 10.598 8.442 6.201 4.046 2.153 .716 .029 0"),
    ("beta", {"dialect": "diffusers"}, "14.615 13.928 12.491 10.598 8.442 6.201 4.046 2.153 .716 .029 0"),
    ("beta", {"dialect": "a1111"}, "14.615 13.928 12.491 10.598 8.442 6.201 4.046 2.153 .716 .029 0"),
    ("kl_optimal", {}, "14.615 4.232 2.394 1.597 1.133 .815 .573 .372 .195 .029 0"),
    ("kl_optimal", {"dialect": "a1111"}, "14.615 4.565 2.633 1.786 1.295 .962 .712 .509 .336 .178 .029"),
    ("ays", {}, "14.615 6.475 3.864 2.695 1.884 1.394 .964 .652 .398 .152 0"),
    ("ays", {"dialect": "diffusers"}, "14.615 6.475 3.861 2.697 1.886 1.396 .963 .652 .399 .152 0"),
    ("ays", {"dialect": "a1111"}, "14.615 6.114 3.565 2.394 1.650 1.136 .743 .445 .169 .029 0"),
    ("gits", {}, "14.615 5.855 2.845 1.671 1.089 .748 .501 .321 .199 .098 0"),
    (
        "linear_quadratic",
        {"dialect": "comfyui"},
        "14.615 14.542 14.468 14.395 14.322 14.249 13.621 11.882 9.032 5.071 0",
    ),
]


@pytest.mark.parametrize(("name", "options", "expected"), GOLDEN, ids=str)
def test_ten_steps_on_stable_diffusion(name, options, expected):
    sigmas = samplers.grid(name, steps=10, levels=SD, **options)
    assert sigmas == pytest.approx([float(number) for number in expected.split()], abs=6e-4)


@pytest.mark.parametrize("ending", samplers.ENDINGS)
@pytest.mark.parametrize(
    ("name", "steps"),
    [
        *product(sorted(set(ALL) - {"ddim_uniform"}), [1, 2, 3, 10, 37, 999]),
        *product(["ddim_uniform"], [1, 2, 3, 10, 37]),
        *product(sorted({*IN_SIGMA, *PRINTED}), [1000, 5000]),
    ],
)
def test_a_grid_has_one_level_more_than_steps_and_goes_down(name, steps, ending):
    sigmas = samplers.grid(name, steps=steps, levels=SD, ending=ending)
    assert len(sigmas) == steps + 1
    assert all(type(sigma) is float for sigma in sigmas)
    assert all(a > b for a, b in pairwise(sigmas))
    assert sigmas[0] <= SD.sigma_max
    assert sigmas[-2] >= SD.sigma_min
    assert (sigmas[-1] == 0.0) == (ending != "stop_at_sigma_min")


@pytest.mark.parametrize("name", ["leading", "linspace", "simple", "trailing", "turbo"])
def test_as_many_steps_as_timesteps_is_the_whole_table(name):
    assert samplers.grid(name, steps=1000, levels=SD) == (*reversed(SD.sigmas), 0.0)


@pytest.mark.parametrize("name", SPANNING)
def test_grids_that_span_the_range_meet_both_ends_exactly(name):
    sigmas = samplers.grid(name, steps=30, levels=SD)
    assert (sigmas[0], sigmas[-2]) == (SD.sigma_max, SD.sigma_min)
    assert samplers.grid(name, steps=1, levels=SD) == (SD.sigma_max, 0.0)
    assert samplers.grid(name, steps=1, levels=SD, ending="stop_at_sigma_min") == (SD.sigma_max, SD.sigma_min)


@pytest.mark.parametrize("name", ALL)
def test_endings_share_the_levels_of_one_longer_grid(name):
    longer = samplers.grid(name, steps=9, levels=SD)[:-1]
    assert samplers.grid(name, steps=8, levels=SD, ending="stop_at_sigma_min") == longer
    assert samplers.grid(name, steps=8, levels=SD, ending="drop_penultimate") == (*longer[:-1], 0.0)


@pytest.mark.parametrize("rho", [1.0, 3.0, 7.0])
def test_karras_is_even_in_a_root_of_sigma(rho):
    roots = np.array(samplers.grid("karras", steps=20, levels=CONTINUOUS, rho=rho)[:-1]) ** (1 / rho)
    np.testing.assert_allclose(np.diff(roots), (roots[-1] - roots[0]) / 19, rtol=1e-9)


def test_karras_tends_to_exponential_as_rho_grows():
    karras = samplers.grid("karras", steps=20, levels=CONTINUOUS, rho=1e7)
    assert karras == pytest.approx(samplers.grid("exponential", steps=20, levels=CONTINUOUS), rel=1e-5)


def test_exponential_scales_by_one_factor():
    sigmas = np.array(samplers.grid("exponential", steps=20, levels=CONTINUOUS)[:-1])
    np.testing.assert_allclose(sigmas[1:] / sigmas[:-1], (0.002 / 80) ** (1 / 19), rtol=1e-12)


@pytest.mark.parametrize("steps", [7, 10, 30, 1000])
def test_linspace_asks_the_network_for_even_timesteps(steps):
    """Log-linear interpolation both ways: t(σ(t)) = t, which linear interpolation of σ would miss between timesteps."""
    times = [SD.t(sigma) for sigma in samplers.grid("linspace", steps=steps, levels=SD)[:-1]]
    np.testing.assert_allclose(times, np.linspace(999, 0, steps), atol=1e-9)


@pytest.mark.parametrize("steps", [3, 7, 10, 30, 600, 999, 1000])
def test_timestep_grids_fall_on_the_table(steps):
    leading = [SD.t(sigma) for sigma in samplers.grid("leading", steps=steps, levels=SD)[:-1]]
    trailing = [SD.t(sigma) for sigma in samplers.grid("trailing", steps=steps, levels=SD)[:-1]]
    np.testing.assert_allclose(leading, np.arange(steps)[::-1] * (1000 // steps), atol=1e-9)
    np.testing.assert_allclose(trailing, np.round(1000 - np.arange(steps) * 1000 / steps) - 1, atol=1e-9)


def test_stable_diffusion_levels():
    assert (SD.n, len(SD.sigmas)) == (1000, 1000)
    assert SD.sigma_min == pytest.approx(math.sqrt(0.00085 / 0.99915), rel=1e-12)
    assert math.sqrt(SD.alpha_bars[-1]) == pytest.approx(0.0683, abs=5e-5)
    assert samplers.discrete_levels("linear", 1e-4, 0.02).alpha_bars[-1] == pytest.approx(4.0358e-5, rel=1e-4)


def test_sigma_and_t_are_inverse():
    for t in (0, 1, 7, 7.25, 500.5, 998.999, 999):
        assert SD.t(SD.sigma(t)) == pytest.approx(t, abs=1e-9)
    assert [SD.sigma(t) for t in range(1000)] == list(SD.sigmas)
    assert [SD.t(sigma) for sigma in SD.sigmas] == list(range(1000))
    assert SD.sigma(10.5) == pytest.approx(math.sqrt(SD.sigmas[10] * SD.sigmas[11]), rel=1e-12)


def test_t_of_a_sigma_outside_the_table_is_the_nearest_end():
    assert (SD.t(0.0), SD.t(1e-9), SD.t(1e9)) == (0.0, 0.0, 999.0)


@pytest.mark.parametrize("sigma", [0.03, 0.5, 14.0])
def test_alpha_bar_and_sigma_are_two_names_of_one_level(sigma):
    bar = samplers.alpha_bar(sigma)
    assert samplers.sigma_of(bar) == pytest.approx(sigma, rel=1e-10)
    assert math.sqrt(1 - bar) / math.sqrt(bar) == pytest.approx(sigma, rel=1e-10)


ERRORS = [
    (
        lambda: samplers.grid("kerras", steps=5, levels=SD),
        "unknown grid 'kerras' (did you mean 'karras'?); known: ays, beta, ",
    ),
    (
        lambda: samplers.grid("karras", steps=5, levels=SD, roh=5.0),
        "grid 'karras' has no option 'roh' (did you mean 'rho'?); it takes: rho",
    ),
    (
        lambda: samplers.grid("linspace", steps=5, levels=SD, rho=7.0),
        "grid 'linspace' has no option 'rho'; it takes none",
    ),
    (
        lambda: samplers.grid("karras", steps=5, levels=SD, ending="tozero"),
        "unknown ending 'tozero' (did you mean 'to_zero'?)",
    ),
    (
        lambda: samplers.grid("karras", steps=5, levels=SD, dialect="comfy"),
        "unknown dialect 'comfy' (did you mean 'comfyui'?); known: a1111, comfyui, diffusers, k-diffusion, ours",
    ),
    (
        lambda: samplers.grid("gits", steps=5, levels=SD, dialect="diffusers"),
        "unknown grid of diffusers 'gits'; known: ays, beta, explicit, exponential, flow, ",
    ),
    (lambda: samplers.grid("ays", steps=5, levels=SD, table="sd2"), "ays.table must be one of sd15, sdxl and svd"),
    (
        lambda: samplers.grid("ays", steps=5, levels=CONTINUOUS),
        "grid 'ays' with table 'sd15' lists timesteps and needs a model with 1000 of them",
    ),
    (
        lambda: samplers.grid("gits", steps=5, levels=CONTINUOUS),
        "grid 'gits' is a table for sigma from 0.02917 to 14.6146, but this model has 0.002 to 80",
    ),
    (
        lambda: samplers.grid("ays", steps=9, levels=SD, dialect="diffusers"),
        "'ays' of diffusers needs steps = 10, got 9",
    ),
    (lambda: samplers.grid("explicit", steps=2, levels=SD), "needs either sigmas or timesteps"),
    (
        lambda: samplers.grid("explicit", steps=2, levels=SD, sigmas=[3.0, 2.0, 1.0]),
        "grid 'explicit' lists 3 levels, but 2 are needed",
    ),
    (
        lambda: samplers.grid("explicit", steps=2, levels=SD, sigmas=[3.0, 0.0]),
        "grid 'explicit' must end above 0, got 0.0; the ending adds the 0",
    ),
    (
        lambda: samplers.grid("explicit", steps=3, levels=SD, sigmas=[3.0, 1.0, 2.0]),
        "grid 'explicit' rises from 1 to 2 at 3 steps",
    ),
    (
        lambda: samplers.grid("explicit", steps=3, levels=SD, sigmas=[3.0, 1.0, 1.0]),
        "grid 'explicit' has coinciding levels, 1 and 1, at 3 steps",
    ),
    (
        lambda: samplers.grid("blend", steps=2, levels=SD, first="karas"),
        "unknown grid 'karas' (did you mean 'karras'?)",
    ),
    (
        lambda: samplers.grid("blend", steps=2, levels=SD, first={"name": "karras", "roh": 3.0}),
        "grid 'karras' has no option 'roh' (did you mean 'rho'?)",
    ),
    (
        lambda: samplers.grid("linspace", steps=5, levels=CONTINUOUS),
        "in time and needs a noise schedule with a time",
    ),
    (lambda: samplers.grid("karras", steps=0, levels=SD), "steps must be an integer of at least 1, got 0"),
    (lambda: samplers.grid("karras", steps=2.5, levels=SD), "steps must be an integer of at least 1, got 2.5"),
    (lambda: samplers.grid("karras", steps=5, levels=SD, rho=0), "karras.rho must be a number above 0, got 0"),
    (lambda: samplers.grid("karras", steps=5, levels=SD, rho="7"), "karras.rho must be a number above 0, got '7'"),
    (
        lambda: samplers.grid("karras", steps=5, levels=SD, rho=1e-300),
        "grid 'karras' has levels that are not finite, at 5 steps with options {'rho': 1e-300}",
    ),
    (
        lambda: samplers.grid("explicit", steps=2, levels=SD, sigmas=[float("inf"), 1.0]),
        "explicit.sigmas: each must be a number of at least 0, got inf",
    ),
    (
        lambda: samplers.grid("karras", steps=500, levels=SD, rho=1e17),
        "karras.rho must be at most 1e+09, got 1e+17",
    ),
    *(
        (
            lambda name=name: samplers.grid(name, steps=1001, levels=SD),
            f"grid '{name}' cannot have 1001 levels: the model has 1000 timesteps",
        )
        for name in IN_TIME
    ),
    (lambda: samplers.grid("trailing", steps=1000, levels=SD, ending="drop_penultimate"), "cannot have 1001 levels"),
    (lambda: samplers.grid("leading", steps=1000, levels=SD, offset=1), "starts at timestep 1000; the last is 999"),
    (
        lambda: samplers.grid("leading", steps=10, levels=SD, offset=-1),
        "leading.offset must be an integer of at least 0",
    ),
    (lambda: samplers.grid("leading", steps=5, levels=CONTINUOUS), "is spaced in timesteps and needs discrete levels"),
    (
        lambda: samplers.discrete_levels("scaled-linear"),
        "unknown beta table 'scaled-linear' (did you mean 'scaled_linear'?)",
    ),
    (lambda: samplers.discrete_levels(n=1), "n must be an integer of at least 2, got 1"),
    (
        lambda: samplers.discrete_levels(start=0.5, end=0.1),
        "betas need 0 < start <= end < 1, got start 0.5 and end 0.1",
    ),
    (lambda: samplers.DiscreteLevels((1.0, 0.5)), "strictly increasing from above 0"),
    (lambda: samplers.continuous_levels(0.0, 1.0), "sigma_min must be a number above 0, got 0.0"),
    (lambda: samplers.continuous_levels(2.0, 1.0), "sigma_min must be below sigma_max, got 2.0 and 1.0"),
    (lambda: SD.sigma(1000), "timestep 1000 is outside the table, which runs from 0 to 999"),
]


@pytest.mark.parametrize(("slip", "line"), ERRORS, ids=[line[:40] for _, line in ERRORS])
def test_a_mistake_is_reported_in_one_line(slip, line):
    with pytest.raises(ValueError) as caught:
        slip()
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


def test_trailing_in_a_continuous_time_is_the_limit_of_finer_tables():
    time = samplers.vp_levels()
    n = 200_000
    table = samplers.DiscreteLevels(
        tuple(time.sigma(min(time.t_min + (time.t_max - time.t_min) * i / (n - 1), time.t_max)) for i in range(n))
    )
    fine = samplers.grid("trailing", steps=7, levels=table)
    assert samplers.grid("trailing", steps=7, levels=time) == pytest.approx(fine, rel=2e-4)
