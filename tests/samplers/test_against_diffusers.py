"""State by state, the deterministic samplers are what diffusers' schedulers compute, on the schedulers' own grids.

The schedulers are fed by the exact mixture at exactly the σ they step from, so neither a network nor the rounding of
timesteps stands between the two. Where diffusers departs from the mathematics, the published variant is compared.
"""

from itertools import groupby

import pytest
import torch
from sampler_problems import MIXTURE, SD, start

import samplers

schedulers = pytest.importorskip("diffusers.schedulers")

TABLE = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
STEPS = (5, 20)
SPACINGS = {
    "leading": {"timestep_spacing": "leading", "steps_offset": 1},
    "linspace": {"timestep_spacing": "linspace"},
    "trailing": {"timestep_spacing": "trailing"},
    "karras": {"use_karras_sigmas": True},
    "exponential": {"use_exponential_sigmas": True},
    "beta": {"use_beta_sigmas": True},
}


def build(name, steps, **config):
    scheduler = getattr(schedulers, name)(**TABLE, **config)
    scheduler.set_timesteps(steps)
    if hasattr(scheduler, "sigmas"):  # its coefficients lose half their digits in float32
        scheduler.sigmas = scheduler.sigmas.double()
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(0)
    return scheduler


def noise_at(x, sigma):
    return (x - MIXTURE.denoise(x, sigma)) / sigma


def levels_of(sigmas):
    """A scheduler's levels without the repetitions with which some count their calls."""
    return [float(sigma) for sigma, _ in groupby(sigmas)]


def theirs_vp(scheduler, x, steps=None):
    """The states of a scheduler that keeps x_t = α x, brought to the σ clock; of its first `steps` steps if given."""
    levels = [float(sigma) for sigma in scheduler.sigmas]
    scale = [(1 + sigma**2) ** -0.5 for sigma in levels]
    sample, states = x * scale[0], []
    for i, t in enumerate(scheduler.timesteps[:steps]):
        eps = noise_at((sample / scale[i]).double(), levels[i])
        sample = scheduler.step(eps, t, sample).prev_sample
        states.append(sample / scale[i + 1])
    return states


def theirs_ve(scheduler, x, calls):
    """The states of a scheduler that keeps x = x₀ + σ ε, after every step of `calls` calls."""
    levels, states = [float(sigma) for sigma in scheduler.sigmas], []
    between = getattr(scheduler, "sigmas_interpol", None)
    for i, t in enumerate(scheduler.timesteps):
        scheduler.scale_model_input(x, t)
        level = levels[i] if between is None or i % 2 == 0 else float(between[i])
        x = scheduler.step(noise_at(x, level), t, x).prev_sample
        if i % calls == calls - 1 or i == len(scheduler.timesteps) - 1:
            states.append(x)
    return states


def ours(rule, x, sigmas):
    states = []
    samplers.run(rule, MIXTURE.denoise, x, sigmas, on_step=lambda i, x: states.append(x.clone()))
    return states


def assert_same(ours, theirs):
    assert len(ours) == len(theirs)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other.double(), atol=1e-5, rtol=1e-5)


VE = [
    ("euler", {}, "EulerDiscreteScheduler", 1),
    ("heun", {}, "HeunDiscreteScheduler", 2),
    ("dpm2", {}, "KDPM2DiscreteScheduler", 2),
    ("lms", {}, "LMSDiscreteScheduler", 1),
    ("ipndm_v", {}, "LMSDiscreteScheduler", 1),
]


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize(("name", "options", "other", "calls"), VE, ids=[f"{case[0]}" for case in VE])
def test_samplers_in_the_sigma_clock(name, options, other, calls, spacing, steps):
    scheduler = build(other, steps, **SPACINGS[spacing])
    x, sigmas = start(3, 2, sigma=float(scheduler.sigmas[0])), levels_of(scheduler.sigmas)
    assert_same(ours(samplers.make(name, **options), x, sigmas), theirs_ve(scheduler, x, calls))


MULTI, UNIPC = "DPMSolverMultistepScheduler", "UniPCMultistepScheduler"
FULL = {"lower_order_final": False}  # full order to the last positive level, as ours by default
ON_NOISE = {"algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min"}
NOISE = {**FULL, **ON_NOISE}
VP = [
    ("ddim", {}, MULTI, {**FULL, "solver_order": 1}),
    ("dpmpp_2m", {}, MULTI, {**FULL, "solver_order": 2}),
    ("res_multistep", {}, MULTI, {**FULL, "solver_order": 2, "solver_type": "heun"}),
    ("dpmpp_3m", {"variant": "published"}, MULTI, {**FULL, "solver_order": 3}),
    ("dpm_2m", {}, MULTI, {**NOISE, "solver_order": 2}),
    ("dpm_3m", {"variant": "published"}, MULTI, {**NOISE, "solver_order": 3}),
    *(
        (
            "unipc",
            {"max_order": order, "kind": kind},
            UNIPC,
            {"solver_order": order, "solver_type": kind, "lower_order_final": order < 3},
        )
        for order in (1, 2, 3)
        for kind in ("bh1", "bh2")
    ),
    *(("deis", {"max_order": order}, "DEISMultistepScheduler", {**FULL, "solver_order": order}) for order in (1, 2, 3)),
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize(("name", "options", "other", "config"), VP, ids=[f"{c[0]}-{c[1]}" for c in VP])
def test_samplers_on_variance_preserving_states(name, options, other, config, spacing, steps):
    scheduler = build(other, steps, **config, **SPACINGS[spacing])
    if name == "deis":  # diffusers has DEIS in log ρ alone: levels without a time
        rule = samplers.make(name, **options).with_levels(samplers.continuous_levels(0.01, 20.0))
    else:
        rule = samplers.make(name, **options)
    sigmas = levels_of(scheduler.sigmas)
    if name == "unipc" and (options["max_order"] == 3 or options["kind"] == "bh1"):
        sigmas = sigmas[:-1]  # diffusers' step to 0 is 0 · ∞ with bh1, and at full order 3 has nothing to solve
    x = start(3, 2, sigma=sigmas[0])
    # Where a grid ends at σ_min already, diffusers may repeat that level; ours has no step there.
    assert_same(ours(rule, x, sigmas), theirs_vp(scheduler, x, len(sigmas) - 1))


FINAL = [
    ("dpmpp_2m", {}, MULTI, {"solver_order": 2, "final_sigmas_type": "sigma_min"}),
    ("res_multistep", {}, MULTI, {"solver_order": 2, "solver_type": "heun", "final_sigmas_type": "sigma_min"}),
    ("dpmpp_3m", {"variant": "published"}, MULTI, {"solver_order": 3}),
    ("dpmpp_3m", {"variant": "published"}, MULTI, {"solver_order": 3, "final_sigmas_type": "sigma_min"}),
    ("dpm_2m", {}, MULTI, {**ON_NOISE, "solver_order": 2}),
    ("dpm_3m", {"variant": "published"}, MULTI, {**ON_NOISE, "solver_order": 3}),
    ("deis", {"max_order": 3}, "DEISMultistepScheduler", {"solver_order": 3}),
    ("unipc", {"max_order": 2}, UNIPC, {"solver_order": 2}),
    ("unipc", {"max_order": 3}, UNIPC, {"solver_order": 3}),
    *(
        ("unipc", {"max_order": order, "kind": kind}, UNIPC,
         {"solver_order": order, "solver_type": kind, "final_sigmas_type": "sigma_min"})
        for order in (1, 2, 3)
        for kind in ("bh1", "bh2")
    ),
]  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("steps", [2, 5, 14, 15, 20])
@pytest.mark.parametrize("spacing", ["leading", "trailing", "karras"])
@pytest.mark.parametrize(("name", "options", "other", "config"), FINAL, ids=[f"{c[0]}-{c[3]}" for c in FINAL])
def test_lower_orders_in_the_last_steps_by_default(name, options, other, config, spacing, steps):
    scheduler = build(other, steps, **config, **SPACINGS[spacing])
    sigmas, rule = levels_of(scheduler.sigmas), samplers.make(name, lower_order_final=True, **options)
    if len(sigmas) != steps + 1:
        pytest.skip("the scheduler repeats its last level")  # its last step, of lower order, goes nowhere
    x = start(3, 2, sigma=sigmas[0])
    if name == "deis":
        rule = rule.with_levels(samplers.continuous_levels(0.01, 20.0))
    assert_same(ours(rule, x, sigmas), theirs_vp(scheduler, x))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("spacing", ["karras", "trailing", "linspace"])
@pytest.mark.parametrize(("name", "algorithm"), [("dpm_2s", "dpmsolver"), ("dpmpp_2s", "dpmsolver++")])
def test_single_step_samplers_of_order_two(name, algorithm, spacing, steps):
    """diffusers counts inner levels as steps of the grid: it is given ours, the middles of every step among them."""
    sigmas = levels_of(build(MULTI, steps, **SPACINGS[spacing]).sigmas)[:-1]
    fine = [sigmas[0]]
    for low in sigmas[1:]:
        fine += [(fine[-1] * low) ** 0.5, low]
    config = {"algorithm_type": algorithm, "solver_order": 2, "final_sigmas_type": "sigma_min"}
    scheduler = build("DPMSolverSinglestepScheduler", len(fine) - 1, **config, lower_order_final=False)
    scheduler.sigmas = torch.tensor(fine, dtype=torch.float64)
    x = start(3, 2, sigma=sigmas[0])
    assert_same(ours(samplers.make(name), x, sigmas), theirs_vp(scheduler, x)[1::2])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("grid", ["karras", "trailing"])
@pytest.mark.parametrize("solver", ["midpoint", "heun"])
@pytest.mark.parametrize("order", [2, 3])
@pytest.mark.parametrize(("on", "ending"), [("data", "zero"), ("data", "sigma_min"), ("noise", "sigma_min")])
def test_single_step_samplers_on_the_levels_of_the_grid(on, ending, order, solver, grid):
    """The scheduler is given our levels: some of its own grids repeat the last one."""
    algorithm = {"data": "dpmsolver++", "noise": "dpmsolver"}[on]
    config = {"algorithm_type": algorithm, "solver_order": order, "solver_type": solver, "final_sigmas_type": ending}
    rule = samplers.make("dpm_singlestep", max_order=order, on=on, solver=solver)
    for steps in (3, 4, 5, 6, 20):
        scheduler = build("DPMSolverSinglestepScheduler", steps, **config, lower_order_final=True)
        stop = {"zero": "to_zero", "sigma_min": "stop_at_sigma_min"}[ending]
        sigmas = samplers.grid(grid, steps=steps, levels=SD, ending=stop)
        scheduler.sigmas = torch.tensor(sigmas, dtype=torch.float64)
        x = start(3, 2, sigma=sigmas[0])
        assert_same(ours(rule, x, sigmas), theirs_vp(scheduler, x))


@pytest.mark.parametrize("steps", [5, 10, 20, 50])
def test_ddim_and_the_pseudo_numerical_methods_on_integer_timesteps(steps):
    """Even strides, which is all that these schedulers can step, and an end at ᾱ = 1."""
    sigmas = samplers.grid("leading", steps=steps, levels=SD)
    cases = [
        ("ddim", {}, "DDIMScheduler", {"clip_sample": False}),
        (
            "ddim",
            {"clip": 0.5, "clip_noise": False},
            "DDIMScheduler",
            {"clip_sample": True, "clip_sample_range": 0.5},
        ),
        ("plms", {}, "PNDMScheduler", {"skip_prk_steps": True}),
        ("pndm", {}, "PNDMScheduler", {"skip_prk_steps": False}),
    ]
    for name, options, other, config in cases:
        scheduler = build(other, steps, set_alpha_to_one=True, timestep_spacing="leading", **config)
        bars = scheduler.alphas_cumprod.double()
        x = start(3, 2, sigma=sigmas[0])
        sample = x * bars[int(scheduler.timesteps[0])].sqrt()
        for t in scheduler.timesteps:
            sigma = samplers.sigma_of(float(bars[int(t)]))
            sample = scheduler.step(noise_at(sample / bars[int(t)].sqrt(), sigma), int(t), sample).prev_sample
        assert_same(ours(samplers.make(name, **options), x, sigmas)[-1:], [sample])


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("grid", ["karras", "exponential", "trailing"])
def test_ipndm(grid, steps):
    """Its scheduler keeps x_t = α x with α² + β² = 1, and is fed v = α ε − β x₀; its levels are given to it."""
    sigmas = samplers.grid(grid, steps=steps, levels=SD)
    betas = [sigma * (1 + sigma**2) ** -0.5 for sigma in sigmas]
    scheduler = schedulers.IPNDMScheduler(trained_betas=betas)
    scheduler.set_timesteps(steps)
    scheduler.set_begin_index(0)
    x = start(3, 2, sigma=sigmas[0])
    sample, states = x * (1 + sigmas[0] ** 2) ** -0.5, []
    for i, t in enumerate(scheduler.timesteps):
        alpha, beta = (1 + sigmas[i] ** 2) ** -0.5, betas[i]
        x0 = MIXTURE.denoise(sample / alpha, sigmas[i])
        v = alpha * (sample - alpha * x0) / beta - beta * x0
        sample = scheduler.step(v, t, sample).prev_sample
        states.append(sample * (1 + sigmas[i + 1] ** 2) ** 0.5)
    assert_same(ours(samplers.make("ipndm"), x, sigmas), states)
