"""Guidance on class-conditional Gaussians, whose guided denoiser and flow are known in closed form."""

from dataclasses import dataclass
from math import inf

import pytest
import torch

import samplers
from samplers.exact.problems import Gaussian
from sdlab import guidance
from sdlab.guidance.base import COND, UNCOND, Query
from sdlab.guidance.guided import Guided
from sdlab.guidance.pag import IdentityAttention

S, WIDE = 0.5, 1.4  # standard deviations of the class and of the data as a whole


def model(x, sigma, context, perturbation=(), negative=None, network=None, attention=None):
    """Image i belongs to N(mean, std²) with (mean, std) = context[i]. A perturbation or another network widens it."""
    widths = [1.5 if one is not None or network else 1.0 for one in perturbation or [None] * len(x)]
    column = (-1, *[1] * (x.dim() - 1))
    mean, std = context[:, 0].view(column), (context[:, 1] * torch.tensor(widths, dtype=x.dtype)).view(column)
    sigma = torch.as_tensor(sigma, dtype=x.dtype).reshape(column)
    if attention is not None:
        attention.uniform(x)
    return (sigma**2 * mean + std**2 * x) / (std**2 + sigma**2)


class Counted:
    """The same model; it counts its calls, and the images in them."""

    def __init__(self):
        self.calls = self.images = 0

    def __call__(self, x, sigma, context, **options):
        self.calls, self.images = self.calls + 1, self.images + len(x)
        return model(x, sigma, context, **options)


def contexts(batch, mean=0.0):
    cond, uncond = torch.tensor([[mean, S]]), torch.tensor([[0.0, WIDE]])
    return cond.double().repeat(batch, 1), uncond.double().repeat(batch, 1)


def encoded(prompts):
    return torch.tensor([[-2.0, 0.6]]).double().repeat(len(prompts), 1)


def guided(name, cond, uncond, network=model, **options):
    return Guided(guidance.make(name, **options), network, {"cond": cond, "uncond": uncond})


def growth(sigma, sigma_next, w):
    """x⁺/x of the guided flow of zero-mean Gaussians.

    dx/dσ = x σ (w/(s²+σ²) + (1−w)/(S²+σ²)), so x ∝ (s²+σ²)^(w/2) (S²+σ²)^((1−w)/2).
    """

    def size(sigma):
        return (S**2 + sigma**2) ** (w / 2) * (WIDE**2 + sigma**2) ** ((1 - w) / 2)

    return size(sigma_next) / size(sigma)


@pytest.mark.parametrize("scale", [0.0, 1.0, 1.7, 4.0])
def test_guided_flow(scale):
    x = torch.tensor([[3.0], [-5.0]], dtype=torch.float64)
    denoise = guided("cfg", *contexts(2), scale=scale)
    levels = samplers.continuous_levels(0.02, 10.0)
    got = samplers.run(samplers.make("heun"), denoise, x, samplers.grid("karras", steps=200, levels=levels)[:-1])
    torch.testing.assert_close(got, x * growth(10.0, 0.02, scale), rtol=2e-3, atol=0)


def test_guided_flow_of_classes_of_one_width_is_the_flow_of_a_class_further_out():
    x = torch.tensor([[3.0]], dtype=torch.float64)
    cond, uncond = torch.tensor([[0.8, S]]).double(), torch.tensor([[-0.2, S]]).double()
    denoise = guided("cfg", cond, uncond, scale=3.0)
    levels = samplers.continuous_levels(0.02, 10.0)
    got = samplers.run(samplers.make("heun"), denoise, x, samplers.grid("karras", steps=100, levels=levels))
    torch.testing.assert_close(got, Gaussian(std=S, mean=-0.2 + 3.0 * 1.0).flow(x, 10.0, 0.0), rtol=2e-3, atol=0)


def test_guided_flow_in_an_interval():
    x = torch.tensor([[3.0]], dtype=torch.float64)
    denoise = guided("cfg_interval", *contexts(1), scale=3.0, sigma_low=0.5, sigma_high=2.0)
    sigmas = [10.0 * (0.02 / 10.0) ** (i / 4000) for i in range(4001)]
    got = samplers.run(samplers.make("heun"), denoise, x, sigmas)
    want = x * growth(10.0, 2.0, 1) * growth(2.0, 0.5, 3) * growth(0.5, 0.02, 1)
    torch.testing.assert_close(got, want, rtol=2e-3, atol=0)


@pytest.mark.parametrize("space", ["x0", "eps", "v"])
def test_the_blend_is_the_same_in_every_space(space):
    sigma, w, x = 0.9, 5.0, torch.randn(4, 1, dtype=torch.float64)
    cond, uncond = contexts(4, mean=1.3)
    alpha = (1 + sigma**2) ** -0.5
    to = {
        "x0": lambda d: d,
        "eps": lambda d: (x - d) / sigma,
        "v": lambda d: alpha * (x - d) / sigma - alpha * sigma * d,
    }[space]
    back = {
        "x0": lambda p: p,
        "eps": lambda p: x - sigma * p,
        "v": lambda p: alpha * (alpha * x - sigma * p),
    }[space]
    c, u = to(model(x, sigma, cond)), to(model(x, sigma, uncond))
    torch.testing.assert_close(guided("cfg", cond, uncond, scale=w)(x, sigma), back(u + w * (c - u)))


CASES = [
    ("none", {}, {0.1: 1, 1.0: 1, 50.0: 1}),
    ("cfg", {"scale": 7.5}, {0.1: 2, 1.0: 2, 50.0: 2}),
    ("cfg", {"scale": 1}, {0.1: 1, 1.0: 1, 50.0: 1}),
    ("cfg", {"scale": 0}, {0.1: 1, 1.0: 1, 50.0: 1}),
    ("cfg_interval", {"sigma_low": 0.5, "sigma_high": 2.0}, {0.4: 1, 0.5: 1, 0.51: 2, 2.0: 2, 2.01: 1}),
    ("cfg_interval", {"sigma_low": 0.0, "sigma_high": inf}, {0.01: 2, 1e4: 2}),
    ("cfg_interval", {"scale": 1.0, "sigma_low": 0.5, "sigma_high": 2.0}, {0.4: 1, 1.0: 1}),
]


@pytest.mark.parametrize(("name", "options", "passes"), CASES)
def test_passes_are_those_of_the_queries_in_one_call(name, options, passes):
    x = torch.randn(3, 1).double()
    for sigma, expected in passes.items():
        counted = Counted()
        denoise = guided(name, *contexts(3), counted, **options)
        denoise(x, sigma)
        assert len(guidance.make(name, **options).queries(sigma)) == expected
        assert denoise.passes == counted.images / 3 == expected
        assert counted.calls == 1


@pytest.mark.parametrize(("name", "options", "passes"), CASES)
def test_guided_and_unconditional_predictions_come_together(name, options, passes):
    x = torch.randn(3, 1).double()
    cond, uncond = contexts(3, mean=2.0)
    for sigma in passes:
        counted = Counted()
        denoise = guided(name, cond, uncond, counted, **options)
        x0, plain = denoise.with_uncond(x, sigma)
        asked = {*guidance.make(name, **options).queries(sigma), UNCOND}
        assert counted.calls == 1
        assert denoise.passes == counted.images / 3 == len(asked)
        assert torch.equal(plain, model(x, sigma, uncond))
        assert torch.equal(x0, denoise(x, sigma))


def test_scales_zero_and_one_are_the_unconditional_and_the_conditional_model():
    x = torch.randn(2, 1).double()
    cond, uncond = contexts(2, mean=2.0)
    assert torch.equal(guided("cfg", cond, uncond, scale=0)(x, 0.7), model(x, 0.7, uncond))
    assert torch.equal(guided("cfg", cond, uncond, scale=1)(x, 0.7), model(x, 0.7, cond))
    assert torch.equal(guided("none", cond, uncond)(x, 0.7), model(x, 0.7, cond))


# One image of a batch is that image alone.


@dataclass(frozen=True)
class Mean:
    """The mean of the conditional predictions so far, which are its state; it forgets them at σ ≤ 1."""

    def queries(self, sigma):
        return (COND,) if sigma > 1 else (UNCOND, COND)

    def combine(self, predictions, x, sigma, state):
        if sigma <= 1:
            return predictions[1] - predictions[0], None
        count, total = (x.new_zeros(len(x)), torch.zeros_like(x)) if state is None else state
        count, total = count + 1, total + predictions[0]
        return total / count.view(-1, *[1] * (x.dim() - 1)), (count, total)


STRATEGIES = [*(guidance.make(name) for name in guidance.GUIDANCE), Mean()]
CALLS = torch.tensor(
    [[0.1, 0.6, 3.0, 20.0], [2.0, 2.0, 2.0, 2.0], [9.0, 3.0, 3.0, 0.1], [5.0, 0.5, 4.0, 4.0]], dtype=torch.float64
)


@pytest.mark.parametrize("method", ["__call__", "with_uncond"])
@pytest.mark.parametrize("strategy", STRATEGIES, ids=repr)
def test_an_image_at_its_own_levels_gives_and_costs_the_same_alone(strategy, method):
    cond, uncond = contexts(4)
    cond[:, 0] = torch.tensor([0.0, 1.0, 2.0, 3.0])
    counted, all_contexts = Counted(), {"cond": cond, "uncond": uncond, "image": (cond + uncond) / 2}
    batch = Guided(strategy, counted, all_contexts, range(4), encoded)
    alone = [Guided(strategy, model, {k: one[[i]] for k, one in all_contexts.items()}, [i], encoded) for i in range(4)]
    for x, sigma in zip(torch.randn(4, 4, 1, 1, 1).double(), CALLS, strict=True):
        got = getattr(batch, method)(x, sigma)
        each = [getattr(one, method)(x[[i]], sigma[[i]]) for i, one in enumerate(alone)]
        if method == "__call__":
            assert torch.equal(got, torch.cat(each))
        else:
            assert all(torch.equal(g, torch.cat(e)) for g, e in zip(got, zip(*each, strict=True), strict=True))
    assert counted.images == sum(one.passes for one in alone) == 4 * batch.passes
    rounds = {
        (query.network, query.input is None, query.loss is None) for query in strategy.queries(guidance.Level(1.0))
    }
    assert counted.calls == len(CALLS) * len(rounds)


WAITS = ([False, True, False, False], [True, True, False, False], [False] * 4, [True, False, False, True])


@pytest.mark.parametrize("method", ["__call__", "with_uncond"])
@pytest.mark.parametrize("strategy", STRATEGIES, ids=repr)
def test_an_image_that_waits_for_others_costs_nothing_and_keeps_its_state(strategy, method):
    cond, uncond = contexts(4)
    cond[:, 0] = torch.tensor([0.0, 1.0, 2.0, 3.0])
    counted, all_contexts = Counted(), {"cond": cond, "uncond": uncond, "image": (cond + uncond) / 2}
    batch = Guided(strategy, counted, all_contexts, range(4), encoded)
    alone = [Guided(strategy, model, {k: one[[i]] for k, one in all_contexts.items()}, [i], encoded) for i in range(4)]
    for x, sigma, waits in zip(torch.randn(4, 4, 1, 1, 1).double(), CALLS, WAITS, strict=True):
        batch.hold(waits)
        got = getattr(batch, method)(x, sigma)
        for i, one in enumerate(alone):
            if not waits[i]:
                expected = getattr(one, method)(x[[i]], sigma[[i]])
                if method == "__call__":
                    assert torch.equal(got[[i]], expected)
                else:
                    assert all(torch.equal(g[[i]], e) for g, e in zip(got, expected, strict=True))
    assert counted.images == sum(one.passes for one in alone) == 4 * batch.passes


def test_images_of_adaptive_steps_cost_what_they_cost_alone():
    cond, uncond = contexts(5)
    cond[:, 0] = torch.arange(5)
    x, rule, sigmas = 10 * torch.randn(5, 2, 1, 1).double(), samplers.make("dpm_adaptive"), (10.0, 1.0, 0.03, 0.0)

    def run(rows):
        denoise = Guided(guidance.make("cfg", scale=3.0), model, {"cond": cond[rows], "uncond": uncond[rows]})
        return samplers.run(rule, denoise, x[rows], sigmas), denoise.passes

    together, passes = run(range(5))
    alone = [run([i]) for i in range(5)]
    torch.testing.assert_close(together, torch.cat([one for one, _ in alone]), atol=1e-12, rtol=1e-12)
    assert len({cost for _, cost in alone}) > 1
    assert 5 * passes == sum(cost for _, cost in alone)


def test_passes_are_averaged_over_images_that_differ():
    interval = {"sigma_low": 0.5, "sigma_high": 2.0}
    denoise = guided("cfg_interval", *contexts(3), **interval)
    denoise(torch.ones(3, 1), torch.tensor([1.0, 0.1, 7.0]))
    assert denoise.passes == (2 + 1 + 1) / 3


def test_state_is_of_one_run():
    cond, uncond = contexts(2, mean=1.0)
    x = torch.randn(3, 2, 1).double()
    predictions = torch.stack([model(row, 4.0, cond) for row in x])
    for _ in range(2):
        denoise = Guided(Mean(), model, {"cond": cond, "uncond": uncond})
        for k in range(3):
            torch.testing.assert_close(denoise(x[k], 4.0), predictions[: k + 1].mean(0))
        denoise(x[0], 0.5)
        torch.testing.assert_close(denoise(x[2], 4.0), predictions[2])


def test_each_image_has_its_own_state():
    """Image 0 forgets at the second call, image 1 does not."""
    cond, uncond = contexts(2, mean=1.0)
    x = torch.randn(3, 2, 1).double()
    denoise = Guided(Mean(), model, {"cond": cond, "uncond": uncond})
    denoise(x[0], 4.0)
    denoise(x[1], torch.tensor([0.5, 4.0]))
    got = denoise(x[2], 4.0)
    predictions = torch.stack([model(row, 4.0, cond) for row in x])
    torch.testing.assert_close(got[0], predictions[2, 0])
    torch.testing.assert_close(got[1], predictions[:, 1].mean(0))


def test_a_state_without_a_row_per_image_is_refused():
    class Shared(Mean):
        def combine(self, predictions, x, sigma, state):
            return predictions[0], (x.mean(),)

    class Short(Mean):
        def combine(self, predictions, x, sigma, state):
            return predictions[0], (x[:1],)

    for strategy, shape in ((Shared(), r"\(\)"), (Short(), r"\(1, 1\)")):
        denoise = Guided(strategy, model, dict(zip(("cond", "uncond"), contexts(3), strict=True)))
        with pytest.raises(ValueError, match=f"must have one row per image, 3 here; got {shape}$"):
            denoise(torch.ones(3, 1), 2.0)


# What the model is asked.


IDENTITY = IdentityAttention()


@dataclass(frozen=True)
class Perturbed:
    """The conditional prediction, away from one of a network with identity attention at σ ≤ 1."""

    def queries(self, sigma):
        return (COND,) if sigma > 1 else (COND, Query("cond", IDENTITY))

    def combine(self, predictions, x, sigma, state):
        return 2 * predictions[0] - predictions[-1], None


def test_the_unconditional_rows_come_first():
    seen = []

    def network(x, sigma, context):
        seen.append(context)
        return x

    cond, uncond = contexts(2, mean=1.0)
    guided("cfg", cond, uncond, network)(torch.ones(2, 1), torch.tensor([1.0, 2.0]))
    guided("none", cond, uncond, network).with_uncond(torch.ones(2, 1), 1.0)
    assert torch.equal(seen[0], torch.cat([uncond, cond]))
    assert torch.equal(seen[1], torch.cat([uncond, cond]))


def test_a_perturbation_reaches_the_rows_that_asked_for_it():
    seen = []

    def network(x, sigma, context, perturbation=None):
        seen.append(perturbation)
        off = torch.tensor([[1.0 if one == IDENTITY else 0.0] for one in perturbation or [None] * len(x)])
        return x + off

    denoise = Guided(Perturbed(), network, {"cond": torch.zeros(2, 1)})
    assert torch.equal(denoise(torch.zeros(2, 1), 2.0), torch.zeros(2, 1))
    assert torch.equal(denoise(torch.zeros(2, 1), 0.5), torch.full((2, 1), -1.0))
    assert torch.equal(denoise(torch.zeros(2, 1), torch.tensor([2.0, 0.5])), torch.tensor([[0.0], [-1.0]]))
    assert seen == [None, (None, None, IDENTITY, IDENTITY), (None, None, IDENTITY)]
    assert denoise.passes == 1 + 2 + 1.5


def test_contexts_for_fewer_images_than_x_has_are_an_error():
    alone = Guided(guidance.make("none"), lambda x, sigma, context: x, {"cond": torch.zeros(1, 3)})
    with pytest.raises(ValueError, match="x has 2 images, but the contexts are for 1"):
        alone(torch.zeros(2, 4), 1.0)


def test_an_unknown_context_is_an_error():
    with pytest.raises(ValueError, match=r"unknown context 'uncond' \(did you mean 'cond'\?\); known: cond"):
        Guided(guidance.make("cfg"), model, {"cond": contexts(1)[0]})(torch.ones(1, 1), 1.0)


@pytest.mark.parametrize("name", guidance.GUIDANCE)
def test_every_strategy_has_defaults_and_a_description(name):
    first = (guidance.GUIDANCE[name].__doc__ or "").splitlines()[0]
    assert guidance.make(name) == guidance.GUIDANCE[name]()
    assert 10 < len(first) < 121
    assert first.endswith((".", ";"))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (
            "cgf",
            {},
            rf"unknown guidance 'cgf' \(did you mean 'cfg'\?\); known: {', '.join(sorted(guidance.GUIDANCE))}",
        ),
        ("cfg", {"scael": 3}, r"guidance 'cfg' has no option 'scael' \(did you mean 'scale'\?\)"),
        ("cfg", {"scale": -1}, r"ClassifierFree.scale must be a number of at least 0, got -1"),
        ("cfg", {"scale": "7"}, r"ClassifierFree.scale must be a number of at least 0, got '7'"),
        ("cfg_interval", {"sigma_low": 2, "sigma_high": 1}, r"sigma_high must be above sigma_low = 2, got 1"),
        ("cfg_interval", {"sigma_low": -0.1}, r"sigma_low must be a number of at least 0, got -0.1"),
    ],
)
def test_mistakes_are_named(name, options, message):
    with pytest.raises(ValueError, match=message):
        guidance.make(name, **options)


@pytest.mark.parametrize(("name", "scale", "passes"), [("none", None, 3), ("cfg", 2.0, 4)])
def test_a_step_of_rectified_cfgpp_takes_three_passes_without_guidance(name, scale, passes):
    denoise = guided(name, *contexts(2), **({} if scale is None else {"scale": scale}))
    samplers.run(samplers.make("rectified_cfg_pp"), denoise, torch.ones(2, 1).double(), (3.0, 1.0, 0.4, 0.0))
    assert denoise.passes == 3 * passes
