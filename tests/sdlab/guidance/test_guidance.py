"""Guidance on class-conditional Gaussians, whose guided denoiser and flow are known in closed form."""

from math import inf

import pytest
import torch

import samplers
from samplers.exact.problems import Gaussian
from sdlab import guidance
from sdlab.denoiser import Counted

S, WIDE = 0.5, 1.4  # standard deviations of the class and of the data as a whole


def model(x, sigma, context):
    """Image i belongs to N(mean, std²) with (mean, std) = context[i]."""
    mean, std = context[:, :1], context[:, 1:]
    sigma = torch.as_tensor(sigma, dtype=x.dtype).reshape(-1, 1)
    return (sigma**2 * mean + std**2 * x) / (std**2 + sigma**2)


def contexts(batch, mean=0.0):
    cond, uncond = torch.tensor([[mean, S]]), torch.tensor([[0.0, WIDE]])
    return cond.double().repeat(batch, 1), uncond.double().repeat(batch, 1)


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
    denoise = guidance.make("cfg", scale=scale)(model, *contexts(2))
    levels = samplers.continuous_levels(0.02, 10.0)
    got = samplers.run(samplers.make("heun"), denoise, x, samplers.grid("karras", steps=200, levels=levels)[:-1])
    torch.testing.assert_close(got, x * growth(10.0, 0.02, scale), rtol=2e-3, atol=0)


def test_guided_flow_of_classes_of_one_width_is_the_flow_of_a_class_further_out():
    x = torch.tensor([[3.0]], dtype=torch.float64)
    cond, uncond = torch.tensor([[0.8, S]]).double(), torch.tensor([[-0.2, S]]).double()
    denoise = guidance.make("cfg", scale=3.0)(model, cond, uncond)
    levels = samplers.continuous_levels(0.02, 10.0)
    got = samplers.run(samplers.make("heun"), denoise, x, samplers.grid("karras", steps=100, levels=levels))
    torch.testing.assert_close(got, Gaussian(std=S, mean=-0.2 + 3.0 * 1.0).flow(x, 10.0, 0.0), rtol=2e-3, atol=0)


def test_guided_flow_in_an_interval():
    x = torch.tensor([[3.0]], dtype=torch.float64)
    rule = guidance.make("cfg_interval", scale=3.0, sigma_low=0.5, sigma_high=2.0)
    denoise = rule(model, *contexts(1))
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
    guided = guidance.make("cfg", scale=w)(model, cond, uncond)
    torch.testing.assert_close(guided(x, sigma), back(u + w * (c - u)))


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
def test_passes_are_announced_and_made_in_one_call(name, options, passes):
    rule, x = guidance.make(name, **options), torch.randn(3, 1).double()
    for sigma, expected in passes.items():
        counted = Counted(model)
        rule(counted, *contexts(3))(x, sigma)
        assert rule.passes(sigma) == expected
        assert counted.passes(batch=3) == expected
        assert counted.calls == 1


@pytest.mark.parametrize(("name", "options", "passes"), CASES)
def test_guided_and_unconditional_predictions_come_together(name, options, passes):
    x = torch.randn(3, 1).double()
    cond, uncond = contexts(3, mean=2.0)
    for sigma in passes:
        counted = Counted(model)
        denoise = guidance.make(name, **options)(counted, cond, uncond)
        guided, plain = denoise.with_uncond(x, sigma)
        assert counted.calls == 1
        torch.testing.assert_close(plain, model(x, sigma, uncond))
        torch.testing.assert_close(guided, denoise(x, sigma))


def test_scales_zero_and_one_are_the_unconditional_and_the_conditional_model():
    x = torch.randn(2, 1).double()
    cond, uncond = contexts(2, mean=2.0)
    assert torch.equal(guidance.make("cfg", scale=0)(model, cond, uncond)(x, 0.7), model(x, 0.7, uncond))
    assert torch.equal(guidance.make("cfg", scale=1)(model, cond, uncond)(x, 0.7), model(x, 0.7, cond))
    assert torch.equal(guidance.make("none")(model, cond, uncond)(x, 0.7), model(x, 0.7, cond))


@pytest.mark.parametrize("name", guidance.GUIDANCE)
def test_images_at_levels_of_their_own(name):
    x, sigmas = torch.randn(4, 1).double(), [0.1, 0.6, 3.0, 20.0]
    cond, uncond = contexts(4, mean=2.0)
    rule = guidance.make(name)
    each = [rule(model, cond[:1], uncond[:1])(x[i : i + 1], s) for i, s in enumerate(sigmas)]
    together = rule(model, cond, uncond)(x, torch.tensor(sigmas, dtype=torch.float64))
    torch.testing.assert_close(together, torch.cat(each))


@pytest.mark.parametrize("name", guidance.GUIDANCE)
def test_every_rule_has_defaults_and_a_description(name):
    first = (guidance.GUIDANCE[name].__doc__ or "").splitlines()[0]
    assert guidance.make(name) == guidance.GUIDANCE[name]()
    assert 10 < len(first) < 121
    assert first.endswith((".", ";"))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("cgf", {}, r"unknown guidance 'cgf' \(did you mean 'cfg'\?\); known: cfg, cfg_interval, none"),
        ("cfg", {"scael": 3}, r"guidance 'cfg' has no option 'scael' \(did you mean 'scale'\?\)"),
        ("cfg", {"scale": -1}, r"ClassifierFree.scale must be a number of at least 0, got -1"),
        ("cfg", {"scale": "7"}, r"ClassifierFree.scale must be a number of at least 0, got '7'"),
        ("cfg_interval", {"sigma_low": 2, "sigma_high": 1}, r"sigma_high must lie above sigma_low = 2, got 1"),
        ("cfg_interval", {"sigma_low": -0.1}, r"sigma_low must be a number of at least 0, got -0.1"),
    ],
)
def test_slips_are_named(name, options, message):
    with pytest.raises(ValueError, match=message):
        guidance.make(name, **options)
