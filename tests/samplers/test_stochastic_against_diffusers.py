"""State by state, the stochastic samplers are what diffusers' schedulers compute, given the same noise.

The schedulers are fed by the exact mixture at exactly the σ they step from. Where diffusers departs from the
mathematics, the variant that says so is compared.
"""

import importlib

import pytest
import torch
from sampler_problems import MIXTURE, start

import samplers

schedulers = pytest.importorskip("diffusers.schedulers")

TABLE = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
STEPS = (5, 10, 20)
SPACINGS = {
    "leading": {"timestep_spacing": "leading", "steps_offset": 1},
    "linspace": {"timestep_spacing": "linspace"},
    "trailing": {"timestep_spacing": "trailing"},
    "karras": {"use_karras_sigmas": True},
    "exponential": {"use_exponential_sigmas": True},
}


@pytest.fixture
def same_noise(monkeypatch):
    """Two streams of the same numbers: one for us, one in place of diffusers' own."""

    def give(scheduler):
        theirs = samplers.philox([7, 8, 9])
        module = importlib.import_module(type(scheduler).__module__)
        monkeypatch.setattr(module, "randn_tensor", lambda shape, **_: theirs(torch.empty(shape, dtype=torch.float64)))
        return samplers.philox([7, 8, 9])

    return give


def build(name, steps, **config):
    scheduler = getattr(schedulers, name)(**TABLE, **config)
    scheduler.set_timesteps(steps)
    for table in ("sigmas", "sigmas_interpol", "sigmas_up", "sigmas_down"):
        if hasattr(scheduler, table):  # its coefficients lose half their digits in float32
            setattr(scheduler, table, getattr(scheduler, table).double())
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(0)
    return scheduler


def distinct(scheduler):
    """Its levels, without the step to σ_min with which some grids end twice."""
    sigmas = [float(sigma) for sigma in scheduler.sigmas]
    if not sigmas[-1] < sigmas[-2] * (1 - 1e-6):
        sigmas, scheduler.timesteps = sigmas[:-1], scheduler.timesteps[:-1]
    return sigmas


def noise_at(x, sigma):
    return (x - MIXTURE.denoise(x, sigma)) / sigma


def theirs_vp(scheduler, x):
    """The states of a scheduler that keeps x_t = α x, brought to the σ clock."""
    levels = [float(sigma) for sigma in scheduler.sigmas]
    scale = [(1 + sigma**2) ** -0.5 for sigma in levels]
    sample, states = x * scale[0], []
    for i, t in enumerate(scheduler.timesteps):
        eps = noise_at((sample / scale[i]).double(), levels[i])
        sample = scheduler.step(eps, t, sample).prev_sample
        states.append(sample / scale[i + 1])
    return states


def theirs_ve(scheduler, x, **options):
    """The states of a scheduler that keeps x = x₀ + σ ε and calls once per step."""
    states = []
    for i, t in enumerate(scheduler.timesteps):
        scheduler.scale_model_input(x, t)
        x = scheduler.step(noise_at(x, float(scheduler.sigmas[i])), t, x, **options).prev_sample
        states.append(x)
    return states


def ours(rule, x, sigmas, noise):
    states = []
    samplers.run(rule, MIXTURE.denoise, x, sigmas, noise, on_step=lambda _, x: states.append(x.clone()))
    return states


def assert_same(ours, theirs):
    assert len(ours) == len(theirs)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other.double(), atol=1e-5, rtol=1e-5)


MULTI = "DPMSolverMultistepScheduler"
SDE = {"algorithm_type": "sde-dpmsolver++", "lower_order_final": False}
SDE_ON_NOISE = {"algorithm_type": "sde-dpmsolver", "final_sigmas_type": "sigma_min"}
VP = [
    ("ddpm", {}, MULTI, {**SDE, "solver_order": 1}),
    ("dpmpp_2m_sde", {}, MULTI, {**SDE, "solver_order": 2}),
    ("dpmpp_2m_sde", {"solver": "heun"}, MULTI, {**SDE, "solver_order": 2, "solver_type": "heun"}),
    ("dpmpp_3m_sde", {"variant": "diffusers"}, MULTI, {**SDE, "solver_order": 3, "solver_type": "heun"}),
    ("dpm_2m_sde", {}, MULTI, {**SDE_ON_NOISE, "solver_order": 2, "lower_order_final": False}),
    (
        "dpm_2m_sde",
        {"solver": "heun"},
        MULTI,
        {**SDE_ON_NOISE, "solver_order": 2, "solver_type": "heun", "lower_order_final": False},
    ),
    ("dpm_2m_sde", {"lower_order_final": True}, MULTI, {**SDE_ON_NOISE, "solver_order": 2}),
    (
        "dpmpp_3m_sde",
        {"variant": "diffusers", "lower_order_final": True},
        MULTI,
        {"algorithm_type": "sde-dpmsolver++", "solver_order": 3, "solver_type": "heun"},
    ),
]


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize(("name", "options", "other", "config"), VP, ids=str)
def test_multistep_sde_samplers(name, options, other, config, spacing, steps, same_noise):
    scheduler = build(other, steps, **SPACINGS[spacing], **config)
    sigmas = distinct(scheduler)
    x, noise = start(3, 2, sigma=sigmas[0]), same_noise(scheduler)
    assert_same(ours(samplers.make(name, **options), x, sigmas, noise), theirs_vp(scheduler, x))


def test_the_corrected_third_order_sampler_differs(same_noise):
    scheduler = build(MULTI, 10, use_karras_sigmas=True, **SDE, solver_order=3, solver_type="heun")
    x, noise = start(3, 2, sigma=float(scheduler.sigmas[0])), same_noise(scheduler)
    corrected = ours(samplers.make("dpmpp_3m_sde"), x, [float(sigma) for sigma in scheduler.sigmas], noise)
    assert (corrected[-1] - theirs_vp(scheduler, x)[-1]).abs().max() > 0.01


SA = [
    ({"predictor": 2, "corrector": 2, "variant": "published"}, {"predictor_order": 2, "corrector_order": 2}),
    ({"predictor": 3, "corrector": 4, "variant": "published"}, {"predictor_order": 3, "corrector_order": 4}),
    ({"predictor": 1, "corrector": 1, "tau": 0.5}, {"predictor_order": 1, "corrector_order": 1}),
    (
        {"predictor": 3, "corrector": 3, "tau": 0.5, "variant": "published"},
        {"predictor_order": 3, "corrector_order": 3},
    ),
    (
        {"predictor": 2, "corrector": 2, "on": "noise"},
        {"predictor_order": 2, "corrector_order": 2, "algorithm_type": "noise_prediction"},
    ),
    (
        {"predictor": 3, "corrector": 4, "tau": 0.5, "on": "noise"},
        {"predictor_order": 3, "corrector_order": 4, "algorithm_type": "noise_prediction"},
    ),
]


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("spacing", ["linspace", "karras", "exponential"])
@pytest.mark.parametrize(("options", "config"), SA, ids=str)
@pytest.mark.parametrize("final", [False, True])
def test_sa_solver(options, config, final, spacing, steps, same_noise):
    tau = options.get("tau", 1.0)
    scheduler = build("SASolverScheduler", steps, tau_func=lambda t: torch.tensor(tau, dtype=torch.float64),
                      lower_order_final=final, **SPACINGS[spacing], **config)  # fmt: skip
    sigmas = distinct(scheduler)
    x, noise = start(3, 2, sigma=sigmas[0]), same_noise(scheduler)
    assert_same(
        ours(samplers.make("sa_solver", lower_order_final=final, **options), x, sigmas, noise), theirs_vp(scheduler, x)
    )


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("spacing", ["leading", "linspace", "trailing"])
def test_euler_ancestral(spacing, steps, same_noise):
    scheduler = build("EulerAncestralDiscreteScheduler", steps, **SPACINGS[spacing])
    x, noise = start(3, 2, sigma=float(scheduler.sigmas[0])), same_noise(scheduler)
    theirs = theirs_ve(scheduler, x)
    assert_same(ours(samplers.make("euler_ancestral"), x, scheduler.sigmas, noise), theirs)


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("churn", [0.5, 5.0, 40.0])
def test_euler_with_churn(churn, spacing, steps, same_noise):
    """Its network is asked at σ though the state is churned up to σ̂; fed at σ̂, as the paper asks, it is Algorithm 2."""
    options = {"s_churn": churn, "s_tmin": 0.1, "s_tmax": 9.0, "s_noise": 1.003}
    scheduler = build("EulerDiscreteScheduler", steps, **SPACINGS[spacing])
    sigmas = [float(sigma) for sigma in scheduler.sigmas]
    x, noise = start(3, 2, sigma=sigmas[0]), same_noise(scheduler)
    theirs_noise, gamma = samplers.philox([7, 8, 9]), min(churn / steps, 2**0.5 - 1)
    theirs, state = [], x
    for i, t in enumerate(scheduler.timesteps):
        scheduler.scale_model_input(state, t)
        up, raised = sigmas[i], state
        if 0.1 <= sigmas[i] <= 9.0:
            up = sigmas[i] * (1 + gamma)
            raised = state + 1.003 * (up**2 - sigmas[i] ** 2) ** 0.5 * theirs_noise(state)
        state = scheduler.step(noise_at(raised, up), t, state, **options).prev_sample
        theirs.append(state)
    assert_same(ours(samplers.make("edm_euler", **options), x, sigmas, noise), theirs)


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("spacing", SPACINGS)
def test_dpm2_ancestral(spacing, steps, same_noise):
    scheduler = build("KDPM2AncestralDiscreteScheduler", steps, **SPACINGS[spacing])
    x, noise = start(3, 2, sigma=float(scheduler.sigmas[0])), same_noise(scheduler)
    middles, sigmas, state, theirs = scheduler.sigmas_interpol, [float(scheduler.sigmas[0])], x, []
    for i, t in enumerate(scheduler.timesteps):
        first = scheduler.state_in_first_order
        scheduler.scale_model_input(state, t)
        level = float(
            (scheduler.sigmas if first else middles)[scheduler.step_index if first else scheduler.step_index - 1]
        )
        state = scheduler.step(noise_at(state, level), t, state).prev_sample
        if not first or i == len(scheduler.timesteps) - 1:
            theirs.append(state)
            sigmas.append(float(scheduler.sigmas[min(scheduler.step_index, len(scheduler.sigmas) - 1)]))
    assert_same(ours(samplers.make("dpm2_ancestral"), x, sigmas, noise), theirs)


@pytest.mark.parametrize("steps", [5, 10, 20])
@pytest.mark.parametrize(
    ("name", "options", "other", "at_step"),
    [
        ("ddim", {"eta": 0.6, "clip_noise": False}, "DDIMScheduler", {"eta": 0.6}),
        ("ddim", {"eta": 0.6}, "DDIMScheduler", {"eta": 0.6, "use_clipped_model_output": True}),
        ("ddpm", {}, "DDPMScheduler", {}),
    ],
    ids=str,
)
def test_predictions_that_are_clipped(name, options, other, at_step, steps, same_noise):
    """On integer timesteps with even strides, to ᾱ = 1. The limit is within the mixture, so that it acts."""
    config = {"clip_sample": True, "clip_sample_range": 0.5, "timestep_spacing": "leading"}
    scheduler = getattr(schedulers, other)(**TABLE, **config)
    scheduler.set_timesteps(steps)
    scheduler.alphas_cumprod = bars = scheduler.alphas_cumprod.double()
    if other == "DDIMScheduler":
        scheduler.final_alpha_cumprod = torch.tensor(1.0, dtype=torch.float64)
    sigmas = samplers.grid("leading", steps=steps, levels=samplers.discrete_levels())
    x, noise = start(3, 2, sigma=sigmas[0]), same_noise(scheduler)
    sample, theirs = x * bars[int(scheduler.timesteps[0])].sqrt(), []
    for i, t in enumerate(scheduler.timesteps):
        eps = noise_at(sample / bars[int(t)].sqrt(), sigmas[i])
        sample = scheduler.step(eps, int(t), sample, **at_step).prev_sample
        theirs.append(sample * (1 + sigmas[i + 1] ** 2) ** 0.5)
    clipped = ours(samplers.make(name, clip=0.5, **options), x, sigmas, noise)
    assert_same(clipped, theirs)
    free = ours(samplers.make(name, **options), x, sigmas, samplers.philox([7, 8, 9]))
    assert (clipped[-1] - free[-1]).abs().max() > 0.01
