"""Intervals and weight schedules around any strategy: closed forms on Gaussians, counts, and mistakes."""

from dataclasses import dataclass
from math import inf, log, pi, tan

import pytest
import torch
from scipy.integrate import quad

import samplers
from sdlab import guidance
from sdlab.guidance.base import COND, UNCOND, Level
from sdlab.guidance.guided import Guided
from sdlab.guidance.schedule import SHAPES, Scheduled, time_of

S, WIDE = 0.5, 1.4  # standard deviations of the class and of the data as a whole


def model(x, sigma, context):
    """Gaussian data of mean 0 whose standard deviation is the context."""
    sigma = torch.as_tensor(sigma, dtype=x.dtype).reshape(-1, 1)
    return context**2 * x / (context**2 + sigma**2)


def guided(strategy, images=1, seeds=None):
    contexts = {"cond": torch.full((images, 1), S).double(), "uncond": torch.full((images, 1), WIDE).double()}
    return Guided(strategy, model, contexts, seeds)


def growth(sigma, sigma_next, weight, steps=4000):
    """x⁺/x of the guided flow, with log x integrated over log σ: d log x/d log σ = σ²(w/(s²+σ²) + (1−w)/(S²+σ²))."""

    def rate(level):
        sigma = torch.e**level
        w = weight(sigma)
        return sigma**2 * (w / (S**2 + sigma**2) + (1 - w) / (WIDE**2 + sigma**2))

    return torch.e ** -quad(rate, log(sigma_next), log(sigma), limit=400)[0]


def grid(steps, top=10.0, low=0.02):
    return samplers.grid(
        "exponential", steps=steps, levels=samplers.continuous_levels(low, top), ending="stop_at_sigma_min"
    )


# Intervals


@pytest.mark.parametrize("per", ["call", "step"])
def test_an_interval_around_cfg_is_cfg_interval_where_each_step_has_one_call(per):
    options = {"scale": 3.0}
    wrapped = guidance.make("cfg", **options, interval=(0.5, 2.0, per))
    plain = guidance.make("cfg_interval", **options, sigma_low=0.5, sigma_high=2.0)
    x = torch.randn(3, 1).double()
    runs = [guided(one, 3) for one in (wrapped, plain)]
    found = [samplers.run(samplers.make("dpmpp_2m"), one, 10 * x, grid(20)) for one in runs]
    assert torch.equal(*found)
    assert runs[0].passes == runs[1].passes


@dataclass
class Seen:
    """Records the levels of the calls and whether they were guided, as CFG in an interval sees them."""

    strategy: guidance.Strategy

    def __post_init__(self):
        self.calls = []

    def queries(self, sigma):
        found = self.strategy.queries(sigma)
        self.calls.append((round(float(sigma), 3), len(found) == 2))
        return found

    def combine(self, *arguments):
        return self.strategy.combine(*arguments)


def test_an_interval_per_step_guides_all_calls_of_a_step_or_none():
    """Heun's correction at the end of the last guided step lies below the interval (the case of the authors' code)."""
    sigmas = (4.0, 2.0, 1.0, 0.5, 0.25)
    calls = {}
    for per in ("call", "step"):
        seen = Seen(guidance.make("cfg", interval=(0.6, 2.0, per)))
        samplers.run(samplers.make("heun"), guided(seen), torch.ones(1, 1).double(), sigmas)
        calls[per] = seen.calls
    levels = [4.0, 2.0, 2.0, 1.0, 1.0, 0.5, 0.5, 0.25]
    assert calls["call"] == list(zip(levels, [False, True, True, True, True, False, False, False], strict=True))
    assert calls["step"] == list(zip(levels, [False, False, True, True, True, True, False, False], strict=True))


def test_the_intervals_of_the_published_code_are_per_step():
    """EDM's grid of 32 steps guided at the step indices 17 to 22: levels 1.609 to 0.283 begin a guided step."""
    sigmas = samplers.grid("karras", steps=32, levels=samplers.continuous_levels(0.002, 80.0))
    assert (round(sigmas[17], 3), round(sigmas[22], 3)) == (1.609, 0.283)
    denoise = guided(guidance.make("cfg", interval=(0.19, 1.61, "step")))
    samplers.run(samplers.make("heun"), denoise, torch.ones(1, 1).double(), sigmas)
    calls = 2 * 32 - 1
    assert denoise.passes == calls + 2 * 6  # both calls of six steps are guided
    denoise = guided(guidance.make("cfg", interval=(0.19, 1.61)))
    samplers.run(samplers.make("heun"), denoise, torch.ones(1, 1).double(), sigmas)
    assert denoise.passes == calls + 2 * 6  # one at 1.609 from above, and none at 0.189


def test_state_waits_outside_an_interval():
    @dataclass(frozen=True)
    class Count:
        def queries(self, sigma):
            return UNCOND, COND

        def combine(self, predictions, x, sigma, state):
            count = torch.ones(len(x)) if state is None else state[0] + 1
            return count.view(-1, 1).to(x).expand_as(x), (count,)

    denoise = guided(guidance.wrapped(Count(), interval=(1.0, 3.0)), 2)
    x = torch.zeros(2, 1).double()
    assert denoise(x, 2.0).flatten().tolist() == [1, 1]
    assert denoise(x, torch.tensor([2.0, 9.0])).flatten().tolist() == [2, 0]
    assert denoise(x, 0.5).flatten().tolist() == [0, 0]
    assert denoise(x, 2.5).flatten().tolist() == [3, 2]


# Schedules


@pytest.mark.parametrize("shape", sorted(SHAPES))
def test_a_shape_has_mean_one_over_t(shape):
    assert quad(SHAPES[shape], 0, 1)[0] == pytest.approx(1, abs=1e-9)


def test_t_is_the_time_of_the_cosine_noise_schedule():
    assert [time_of(tan(pi * t / 2)) for t in (0.0, 0.3, 0.9)] == pytest.approx([0.0, 0.3, 0.9])
    levels = samplers.cosine_levels(n=1000)
    assert time_of(levels.sigmas[500]) == pytest.approx(0.5, abs=0.01)


def test_the_weights_of_wang_et_al():
    """ω(t) = ω₀ 2(1 − t) and ω₀ (1 + cos πt), clamped from below, with ω₀ = scale − 1."""
    sigma = tan(pi * 0.75 / 2)
    assert Scheduled(guidance.make("cfg"), "linear").weight(sigma) == pytest.approx(0.5)
    assert Scheduled(guidance.make("cfg"), "linear", (0.8,)).weight(sigma) == pytest.approx(0.8)
    assert Scheduled(guidance.make("cfg"), "cosine").weight(sigma) == pytest.approx(1 - 2**-0.5)
    assert Scheduled(guidance.make("cfg"), "power", (1.0,)).weight(sigma) == pytest.approx(0.5)
    assert Scheduled(guidance.make("cfg"), "beta", (1.0, 1.0)).weight(sigma) == pytest.approx(1)


TABLE = ((0.1, 0.0), (1.0, 1.0), (10.0, 3.0))


@pytest.mark.parametrize("schedule", ["linear", "cosine", ("power", 3.0), ("beta", 2.0, 3.0), ("linear", 1.0), TABLE])
def test_a_scheduled_flow_is_the_one_of_its_weights(schedule):
    strategy = guidance.make("cfg", scale=3.0, schedule=schedule)
    found = samplers.run(samplers.make("heun"), guided(strategy), torch.ones(1, 1).double(), grid(1000))
    assert float(found) == pytest.approx(
        growth(10.0, 0.02, lambda s: 1 + 2 * strategy.weight(s)), rel=1e-4
    )  # Heun at h = 0.006


def test_a_table_is_linear_in_log_sigma_and_constant_beyond_its_ends():
    weight = guidance.make("cfg", schedule=[[10, 3], [0.1, 0], [1, 1]]).weight
    assert [weight(s) for s in (0.01, 0.1, 10**-0.5, 1.0, 10**0.5, 10.0, 99.0)] == pytest.approx(
        [0, 0, 0.5, 1, 2, 3, 3]
    )


def test_a_weight_of_zero_costs_one_pass_and_a_weight_of_one_changes_nothing():
    x = torch.randn(2, 1).double()
    denoise = guided(guidance.make("cfg", scale=3.0, schedule=TABLE), 2)
    assert torch.equal(denoise(x, 0.05), guided(guidance.make("none"), 2)(x, 0.05))
    assert denoise.passes == 1
    assert torch.equal(denoise(x, 1.0), guided(guidance.make("cfg", scale=3.0), 2)(x, 1.0))
    assert denoise.passes == 3


def test_a_schedule_of_a_strategy_without_the_plain_prediction_asks_for_it():
    """CFG at scale 0 asks for D(∅) alone: D(c) + m (D(∅) − D(c))."""
    x = torch.randn(2, 1).double()
    denoise = guided(guidance.make("cfg", scale=0, schedule=[[1.0, 2.0]]), 2)
    cond, uncond = (guided(guidance.make("cfg", scale=scale), 2)(x, 1.0) for scale in (1, 0))
    torch.testing.assert_close(denoise(x, 1.0), cond + 2 * (uncond - cond))
    assert denoise.passes == 2


def test_wrappers_combine_the_interval_outermost():
    strategy = guidance.make("cfg", scale=3.0, schedule="linear", interval=(0.5, 2.0))
    found = samplers.run(samplers.make("heun"), guided(strategy), torch.ones(1, 1).double(), grid(4000))
    weight = Scheduled(guidance.make("cfg"), "linear").weight
    want = (
        growth(10.0, 2.0, lambda s: 1) * growth(2.0, 0.5, lambda s: 1 + 2 * weight(s)) * growth(0.5, 0.02, lambda s: 1)
    )
    assert float(found) == pytest.approx(want, rel=2e-3)


# Levels


def test_a_level_is_a_float_that_has_the_start_of_its_step():
    level = Level(0.5, 2.0)
    assert (level, level.step, level / 2, hash(level)) == (0.5, 2.0, 0.25, hash(0.5))
    assert Level(0.5).step == 0.5


# Forms and mistakes


def test_a_chain_is_a_strategy_in_wrappers():
    assert guidance.unchained(["interval", "cfg"]) == {"name": "cfg", "interval": (0.28, 5.42)}
    assert guidance.unchained(["schedule", "interval", {"name": "cfg", "scale": 3.0, "interval": [1, 2]}]) == {
        "name": "cfg", "scale": 3.0, "interval": [1, 2], "schedule": "linear",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("chain", "message"),
    [
        ([], r'a chain ends with a strategy, like \["interval", "apg"\], got \[\]'),
        (["interval", 3], r'a chain ends with a strategy, like \["interval", "apg"\], got \[\'interval\', 3\]'),
        (["intervall", "cfg"], r"unknown wrapper 'intervall' \(did you mean 'interval'\?\); known: interval, schedule"),
    ],
)
def test_another_chain_is_an_error(chain, message):
    with pytest.raises(ValueError, match=message):
        guidance.unchained(chain)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"interval": (5.0, 0.3)}, r"interval must be \[low, high\] with low < high, got \[5.0, 0.3\]"),
        ({"interval": (1.0, 1.0)}, r"interval must be \[low, high\] with low < high, got \[1.0, 1.0\]"),
        ({"interval": (-1.0, 1.0)}, r"interval: its low end must be a number of at least 0, got -1.0"),
        ({"interval": (0.0, "high")}, r"interval: its high end must be a number of at least 0, got 'high'"),
        ({"interval": (0.0, 1.0, "stp")}, r"interval: its third value must be one of 'call', 'step', got 'stp'"),
        ({"interval": (1.0,)}, r'interval must be \[low, high\] or \[low, high, "step"\], got \(1.0,\)'),
        ({"interval": "all"}, r'interval must be \[low, high\] or \[low, high, "step"\], got \'all\''),
        ({"schedule": "liner"}, r"unknown schedule 'liner' \(did you mean 'linear'\?\)"),
        ({"schedule": ("linear", 1.0, 2.0)}, r"schedule: linear takes 1 number at most, got \[1.0, 2.0\]"),
        ({"schedule": ("linear", "x")}, r"schedule: each number of linear must be a number of at least 0, got 'x'"),
        ({"schedule": ("power", 0.0)}, r"schedule: the exponent of power must be a number above 0, got 0.0"),
        ({"schedule": ("beta", 0.5)}, r"schedule: each number of beta must be in \[1, 50\], got 0.5"),
        ({"schedule": ((0.0, 1.0),)}, r"schedule: each level must be a number above 0, got 0.0"),
        ({"schedule": ((1.0, "x"),)}, r"schedule: each weight must be a number of at least 0, got 'x'"),
        ({"schedule": ((1.0, 1.0), (1.0, 2.0))}, r"schedule: the level 1.0 is given twice"),
        ({"schedule": 3.0}, r'schedule must be a shape like "linear", with numbers like \["power", 3.0\], or a table'),
        ({"schedule": ()}, r"schedule must be a shape"),
        ({"intervall": (0, 1)}, r"guidance 'cfg' has no option 'intervall' \(did you mean 'interval'\?\)"),
    ],
)
def test_mistakes_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        guidance.make("cfg", **options)


def test_an_infinite_interval_is_the_strategy():
    x = torch.randn(2, 1).double()
    for sigma in (1e-3, 1.0, 1e3):
        found = guided(guidance.make("cfg", interval=(0, inf)), 2)(x, sigma)
        assert torch.equal(found, guided(guidance.make("cfg"), 2)(x, sigma))
