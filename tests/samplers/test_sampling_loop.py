"""The sampling loop, the registry, and the messages of both on invalid input."""

import dataclasses
import math

import pytest
import torch
from sampler_problems import PLAIN, SD, SPECTRUM, STOCHASTIC, Counting, start

import samplers

GRID = samplers.grid("karras", steps=5, levels=SD)


@pytest.mark.parametrize("ending", samplers.ENDINGS)
@pytest.mark.parametrize("steps", [1, 2, 9])
@pytest.mark.parametrize("name", PLAIN)
def test_a_sampler_makes_the_calls_it_claims(name, steps, ending):
    rule, sigmas = samplers.make(name), samplers.grid("karras", steps=steps, levels=SD, ending=ending)
    counting = Counting(SPECTRUM.denoise)
    samplers.run(rule, counting, start(1, 3, sigma=sigmas[0]), sigmas, noise=samplers.seeded([0]))
    if rule.nfe(sigmas) is None:  # adaptive: each image has its own steps
        assert all(sigma.shape == (1,) and sigma > 0 for sigma in counting.levels if isinstance(sigma, torch.Tensor))
    else:
        assert len(counting.levels) == rule.nfe(sigmas)
        assert all(type(sigma) is float and sigma > 0 for sigma in counting.levels)


def test_heun_saves_the_second_call_of_the_step_to_zero():
    heun = samplers.make("heun")
    assert heun.nfe(GRID) == 2 * 5 - 1
    assert heun.nfe(GRID[:-1]) == 2 * 4
    assert heun.nfe(GRID[:1]) == 0


@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize(
    ("given", "state"),
    [
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_the_state_is_float32_unless_given_float64(name, given, state):
    seen = []

    def denoise(x, sigma):
        seen.append(x.dtype)
        return SPECTRUM.denoise(x, sigma)

    x = start(2, 3, sigma=GRID[0]).to(given)
    assert samplers.run(samplers.make(name), denoise, x, GRID, noise=samplers.seeded([0, 1])).dtype == state
    assert set(seen) == {state}


@pytest.mark.parametrize("name", PLAIN)
def test_a_run_leaves_its_input_and_its_predictions_alone(name):
    predictions = []

    def denoise(x, sigma):
        x0 = SPECTRUM.denoise(x, sigma)
        predictions.append((x0, x0.clone()))
        return x0

    x = start(2, 3, sigma=GRID[0])
    before = x.clone()
    samplers.run(samplers.make(name), denoise, x, GRID, noise=samplers.seeded([0, 1]))
    assert torch.equal(x, before)
    assert all(torch.equal(x0, copy) for x0, copy in predictions)


@pytest.mark.parametrize("name", PLAIN)
def test_a_sampler_has_no_hidden_state(name):
    rule, x = samplers.make(name), start(2, 3, sigma=GRID[0])
    first, second = (samplers.run(rule, SPECTRUM.denoise, x, GRID, noise=samplers.seeded([0, 1])) for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize("name", PLAIN)
def test_on_step_sees_every_state_and_the_last_is_the_result(name):
    steps, states = [], []

    def on_step(i, x):
        steps.append(i)
        states.append(x.clone())

    x = start(2, 3, sigma=GRID[0])
    out = samplers.run(samplers.make(name), SPECTRUM.denoise, x, GRID, samplers.seeded([0, 1]), on_step)
    assert steps == list(range(5))
    assert torch.equal(states[-1], out)


@pytest.mark.parametrize("name", PLAIN)
def test_no_gradient_is_kept(name):
    x = start(1, 3, sigma=GRID[0]).requires_grad_()
    out = samplers.run(samplers.make(name), SPECTRUM.denoise, x, GRID, noise=samplers.seeded([0]))
    assert not out.requires_grad


@pytest.mark.parametrize("name", PLAIN)
def test_levels_of_a_cosine_table_stay_finite_in_float32(name):
    """σ from 2·10⁴ down in 1000 steps, where neighbouring levels nearly coincide in float32."""
    sigmas = samplers.grid("exponential", steps=1000, levels=samplers.continuous_levels(0.01, 2e4))
    x = start(1, 3, sigma=sigmas[0]).float()
    out = samplers.run(samplers.make(name), SPECTRUM.denoise, x, sigmas, noise=samplers.seeded([0]))
    assert out.isfinite().all()
    assert ((out - SPECTRUM.mean).abs() < 5 * SPECTRUM.std).all()


@pytest.mark.parametrize("rule", [*map(samplers.make, PLAIN), samplers.make("ddim", eta=1)], ids=str)
def test_steps_of_any_length_stay_finite(rule):
    """A step that leaves a share of 10⁻¹ to 10⁻¹⁹ of the noise, or 1 − 10⁻¹⁴ of it: no root of a rounded negative."""
    for low in [*(10 * 10 ** (-k / 40) for k in range(40, 760)), *(10 * (1 - k * 1e-14) for k in range(1, 100))]:
        out = samplers.run(rule, SPECTRUM.denoise, start(1, 3, sigma=10.0), (10.0, low), noise=samplers.seeded([0]))
        assert out.isfinite().all()


def test_a_grid_of_one_level_has_no_step():
    x = start(1, 3, sigma=1.0)
    assert torch.equal(samplers.run(samplers.make("heun"), SPECTRUM.denoise, x, (1.0,)), x)


def test_sigmas_may_be_any_sequence_of_numbers():
    x, rule = start(1, 3, sigma=GRID[0]), samplers.make("dpmpp_2m")
    counting = Counting(SPECTRUM.denoise)
    got = samplers.run(rule, counting, x, torch.tensor(GRID, dtype=torch.float64))
    assert torch.equal(got, samplers.run(rule, SPECTRUM.denoise, x, GRID))
    assert {type(sigma) for sigma in counting.levels} == {float}


@pytest.mark.parametrize("name", samplers.SAMPLERS)
def test_a_sampler_is_a_frozen_dataclass_with_defaults_and_a_summary(name):
    rule = samplers.make(name)
    assert dataclasses.is_dataclass(rule)
    assert rule == samplers.make(name)
    assert hash(rule) == hash(samplers.make(name))
    assert rule.order >= 1 or name in ("lcm", "tcd")  # which are not integrators
    for field in dataclasses.fields(rule):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(rule, field.name, 0.5)


@pytest.mark.parametrize("entry", [*samplers.SAMPLERS.values(), *samplers.GRIDS.values()], ids=lambda e: e.__name__)
def test_every_entry_has_a_line_for_the_list(entry):
    assert samplers.describe(entry).endswith((".", "σ_max."))
    assert 20 < len(samplers.describe(entry)) < 110


def test_describe_of_nothing_is_empty():
    assert samplers.describe(lambda: None) == ""


def test_eta_makes_a_sampler_stochastic():
    assert [samplers.make("ddim", eta=eta).stochastic for eta in (0, 0.0, 0.1, 1)] == [False, False, True, True]
    assert [samplers.make("euler_ancestral", eta=eta).stochastic for eta in (0.0, 0.1)] == [False, True]


def X():
    return torch.zeros(1, 3)


def go(sigmas, x=None, name="euler"):
    return samplers.run(samplers.make(name), SPECTRUM.denoise, X() if x is None else x, sigmas)


ERRORS = [
    (
        lambda: samplers.make("eular"),
        f"unknown sampler 'eular' (did you mean 'euler'?); known: {', '.join(sorted(samplers.SAMPLERS))}",
    ),
    (lambda: samplers.make("dpmpp2m"), "(did you mean 'dpmpp_2m'?)"),
    (
        lambda: samplers.make("ddim", etta=1.0),
        "sampler 'ddim' has no option 'etta' (did you mean 'eta'?); it takes: eta",
    ),
    (lambda: samplers.make("euler", eta=1.0), "sampler 'euler' has no option 'eta'; it takes none"),
    (lambda: samplers.make("ddim", eta=1.5), "DDIM.eta must be in [0, 1], got 1.5"),
    (lambda: samplers.make("ddim", eta=math.nan), "DDIM.eta must be in [0, 1], got nan"),
    (lambda: samplers.make("ddim", eta="1"), "DDIM.eta must be in [0, 1], got '1'"),
    (lambda: samplers.make("ddim", eta=True), "DDIM.eta must be in [0, 1], got True"),
    (lambda: samplers.make("euler_ancestral", eta=-1), "EulerAncestral.eta must be a number of at least 0, got -1"),
    (lambda: go(GRID, x=torch.zeros(1, 3, dtype=torch.int64)), "x must be a floating-point tensor, got torch.int64"),
    (lambda: go(()), "sigmas must be finite and strictly decreasing to 0 or above, got []"),
    (lambda: go((1.0, 2.0)), "strictly decreasing to 0 or above, got [1.0, 2.0]"),
    (lambda: go((1.0, 1.0)), "strictly decreasing"),
    (lambda: go((1.0, -0.5)), "decreasing to 0 or above"),
    (lambda: go((math.inf, 1.0)), "must be finite"),
    (lambda: go((math.nan,)), "must be finite"),
    (lambda: go([*map(float, range(20))]), "got [0.0, 1.0, 2.0, 3.0, …, 16.0, 17.0, 18.0, 19.0]"),
    *(
        (
            lambda name=name: go(GRID, name=name),
            "is stochastic and needs noise, for example noise=samplers.seeded([0, 1, 2])",
        )
        for name in STOCHASTIC
    ),
]


@pytest.mark.parametrize(("slip", "line"), ERRORS, ids=[line[:40] for _, line in ERRORS])
def test_a_mistake_is_reported_in_one_line(slip, line):
    with pytest.raises(ValueError) as caught:
        slip()
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_noise_is_reported_before_the_first_call():
    counting = Counting(SPECTRUM.denoise)
    with pytest.raises(ValueError, match="needs noise"):
        samplers.run(samplers.make("ddpm"), counting, X(), GRID)
    assert counting.levels == []


def test_a_sampler_that_draws_noise_but_claims_not_to_is_reported():
    @dataclasses.dataclass(frozen=True)
    class Sly(type(samplers.make("euler"))):
        def step(self, denoise, x, sigma, sigma_next, memory, noise):
            return noise(x), None

    with pytest.raises(ValueError, match="declared as not stochastic draws noise"):
        samplers.run(Sly(), SPECTRUM.denoise, X(), GRID)
