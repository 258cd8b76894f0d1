"""The denoising loss: today's formulas, its minimum, and weightings that agree across parametrisations."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from math import log
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from sdlab.model.config import SCENES, ModelConfig
from sdlab.model.noise_schedule import NAMED, EdmLevels, FlowLevels, LevelsConfig
from sdlab.model.parametrisation import X0, Edm, Eps, Flow, Parametrisation, V, parametrisation
from sdlab.system.resources import find
from sdlab.train.losses.denoising import Denoising
from sdlab.train.losses.weighting import P2, WEIGHTINGS, EdmWeighting, MinSnr, SoftMinSnr, Weighting
from sdlab.train.stages.unet import Examples
from sdlab.train.timesteps import log_normal, uniform
from sdlab.train.world_pictures import WorldPictures
from sdlab.weights.model_folder import read_config
from sdlab.weights.vocabulary import tokenizer_in
from sdlab.worlds.registry import open_world

ALL = (Eps(), V(), X0(), Flow(), Edm(0.6))
EVERY = pytest.mark.parametrize("p", ALL, ids=lambda p: type(p).__name__)
MODELS = {
    name: replace(SCENES, prediction=name, levels=levels)
    for name, levels in {
        "eps": LevelsConfig(),
        "v": LevelsConfig(zero_snr=True),
        "x0": LevelsConfig(),
        "flow": FlowLevels(),
        "edm": EdmLevels(sigma_data=0.6),
    }.items()
}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drawn(n: int, model: ModelConfig, std: float = 1.0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Latents, noise, timesteps and their σ."""
    levels, generator = model.noise_schedule(), seeded()
    t = uniform(n, generator, levels)
    sigma = torch.tensor([levels.sigma(one) for one in t.tolist()], dtype=torch.float64)
    x0, noise = torch.randn(2, n, 3, 2, 2, generator=generator)
    return std * x0, noise, t, sigma


@pytest.mark.parametrize("name", ["scaled_linear", "zero_snr"])
def test_without_options_the_loss_is_bit_for_bit_that_of_the_papers_formulas(name: str):
    """Ho et al. (2020, eq. 14) and Salimans & Ho (2022, appendix D), with √ᾱ and √(1 − ᾱ) of a table."""
    model = replace(SCENES, levels=NAMED[name])
    x0, noise, t, sigma = drawn(500, model)
    table = torch.tensor(model.noise_schedule().sigmas, dtype=torch.float64)
    alpha = (1 + table.square()).rsqrt().float()[t.long()].view(-1, 1, 1, 1)
    spread = (table * (1 + table.square()).rsqrt()).float()[t.long()].view(-1, 1, 1, 1)
    predicted = torch.randn(x0.shape, generator=seeded(1))
    for p, target in ((Eps(), noise), (V(), alpha * noise - spread * x0)):
        loss = Denoising(p)
        assert loss.input(x0, noise, sigma).equal(alpha * x0 + spread * noise)
        assert loss.loss(predicted, x0, noise, sigma).equal(F.mse_loss(predicted, target))


@pytest.mark.parametrize("name", MODELS)
def test_the_input_of_data_with_unit_variance_has_unit_variance_or_that_of_the_flow(name: str):
    model = MODELS[name]
    x0, noise, _, sigma = drawn(4000, model, std=0.6 if name == "edm" else 1.0)
    found = Denoising(parametrisation(model)).input(x0, noise, sigma).square().mean()
    t = sigma / (1 + sigma)
    wanted = ((1 - t).square() + t.square()).mean().float() if name == "flow" else torch.tensor(1.0)
    torch.testing.assert_close(found, wanted, rtol=0.03, atol=0)


@EVERY
def test_the_estimate_of_the_target_is_the_data(p: Parametrisation):
    x0, noise, _, _ = drawn(50, SCENES)
    sigma = torch.logspace(-2, 2, 50, dtype=torch.float64)
    loss = Denoising(p)
    target = loss.target(x0.double(), noise.double(), sigma)
    torch.testing.assert_close(loss.x0(target, x0.double(), noise.double(), sigma), x0.double())


@pytest.mark.parametrize("weighting", [None, MinSnr(name="min_snr")], ids=["plain", "min_snr"])
@EVERY
def test_the_posterior_mean_minimises_the_loss(p: Parametrisation, weighting: Weighting | None):
    """For data N(0, s²) the posterior mean is s²/(s²+σ²) x. No other factor on x has a lower loss, at any level."""
    loss, std = Denoising(p, weighting), 0.6
    x0, noise = std * torch.randn(2, 200_000, 1, dtype=torch.float64, generator=seeded())
    noise = noise / std
    for level in (0.1, 0.7, 5.0):
        sigma = torch.full((len(x0),), level, dtype=torch.float64)
        x = x0 + level * noise
        factor = torch.tensor(std**2 / (std**2 + level**2), dtype=torch.float64, requires_grad=True)
        a, b = p.target(level)
        value = loss.loss(a * factor * x + b * (x - factor * x) / level, x0, noise, sigma)
        [slope] = torch.autograd.grad(value, factor, create_graph=True)
        [curvature] = torch.autograd.grad(slope, factor)
        assert curvature > 0
        standard_error = std * level / (std**2 + level**2) * len(x) ** -0.5  # of the factor with the lowest loss
        assert abs(slope / curvature) < 4 * standard_error


WEIGHTS: dict[str, Weighting] = {
    "min_snr": MinSnr(name="min_snr", gamma=3),
    "soft_min_snr": SoftMinSnr(name="soft_min_snr", gamma=3),
    "p2": P2(name="p2", k=0.5, gamma=0.7),
    "edm": EdmWeighting(name="edm", sigma_data=0.6),
}


def test_every_weighting_is_tested_and_listed():
    assert tuple(WEIGHTS) == tuple(WEIGHTINGS)


@pytest.mark.parametrize("name", WEIGHTS)
def test_a_weighting_gives_every_parametrisation_the_same_loss(name: str):
    x0, noise, _, _ = drawn(64, SCENES)
    x0, noise = x0.double(), noise.double()
    sigma = torch.logspace(-1.5, 1.5, 64, dtype=torch.float64)
    estimate = x0 + 0.3 * torch.randn(x0.shape, dtype=torch.float64, generator=seeded(2))
    weight = WEIGHTS[name](sigma**-2)
    wanted = (weight.view(-1, 1, 1, 1) * (estimate - x0).square()).mean()
    level = sigma.view(-1, 1, 1, 1)
    eps = (x0 + level * noise - estimate) / level
    for p in ALL:
        a, b = p.target(level)
        found = Denoising(p, WEIGHTS[name]).loss(a * estimate + b * eps, x0, noise, sigma)
        torch.testing.assert_close(found, wanted)


def test_weightings_are_those_of_their_papers():
    """As factors of the plain loss of each prediction, in the form in which the papers print them."""
    sigma = torch.tensor([0.1, 0.5, 2.0, 9.0], dtype=torch.float64)
    snr = sigma**-2

    def factor(p: Parametrisation, name: str) -> Tensor:
        return WEIGHTS[name](snr) / p.error_ratio(sigma)

    least = torch.minimum(snr, torch.tensor(3.0))
    torch.testing.assert_close(factor(Eps(), "min_snr"), least / snr)
    torch.testing.assert_close(factor(V(), "min_snr"), least / (snr + 1))
    torch.testing.assert_close(factor(X0(), "min_snr"), least)
    torch.testing.assert_close(factor(Eps(), "p2"), (0.5 + snr) ** -0.7)
    torch.testing.assert_close(factor(X0(), "soft_min_snr"), 1 / (sigma**2 + 1 / 3))
    torch.testing.assert_close(factor(X0(), "edm"), (sigma**2 + 0.36) / (sigma * 0.6) ** 2)
    torch.testing.assert_close(factor(Edm(0.6), "edm"), torch.ones(4, dtype=torch.float64))
    torch.testing.assert_close(Flow().error_ratio(sigma), ((1 + sigma) / sigma) ** 2)


@pytest.mark.parametrize("schedule", ["flow", "edm", "scaled_linear"])
def test_log_normal_timesteps(schedule: str):
    levels = NAMED[schedule].schedule()
    t = log_normal(20_000, seeded(), levels, mean=-0.4, std=0.9, shift=1.5)
    sigma = torch.tensor([levels.sigma(one) for one in t.tolist()], dtype=torch.float64)
    places = torch.linspace(-2, 1.5, 15, dtype=torch.float64)  # in ln σ, inside every noise schedule
    below = (sigma.log()[:, None] < places).double().mean(0)
    wanted = torch.special.ndtr((places - log(1.5) + 0.4) / 0.9)
    torch.testing.assert_close(below, wanted, atol=5e-3, rtol=0)
    if schedule == "scaled_linear":
        assert t.equal(t.round())
    if schedule == "flow":  # t itself is logit-normal
        shares = (t / 1000).logit()
        assert shares.mean() == pytest.approx(log(1.5) - 0.4, abs=0.01)
        assert shares.std() == pytest.approx(0.9, abs=0.01)


@pytest.mark.parametrize("schedule", NAMED)
def test_uniform_timesteps_cover_the_noise_schedule(schedule: str):
    levels = NAMED[schedule].schedule()
    t = uniform(10_000, seeded(), levels)
    assert levels.t_min <= t.min() < levels.t_min + 2
    assert levels.t_max - 2 < t.max() <= levels.t_max
    assert t.mean() == pytest.approx((levels.t_min + levels.t_max) / 2, abs=1)


@pytest.mark.parametrize("schedule", NAMED)
@pytest.mark.parametrize("timesteps", [uniform, partial(log_normal, mean=0.0, std=1.0)])
def test_examples_of_every_noise_schedule_can_be_drawn_by_another_process(
    schedule: str, timesteps: Callable[..., Tensor]
):
    levels, folder = NAMED[schedule].schedule(), find(Path("data/scenes"))
    tokenizer = tokenizer_in(folder, read_config(folder).text)
    pictures = WorldPictures(open_world("scenes"), "train")
    examples = Examples(pictures, 4, (4, 16, 16), tokenizer, levels, partial(timesteps, levels=levels))
    here, there = (draw(seeded(3)) for draw in (examples, pickle.loads(pickle.dumps(examples))))
    assert here.t.equal(there.t)
    assert here.sigma.equal(there.sigma)
    assert here.tokens.equal(there.tokens)
