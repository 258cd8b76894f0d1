"""Strategies that look inside the network: their formulas, their passes, and each image of a batch alone."""

from __future__ import annotations

from dataclasses import replace
from math import inf

import pytest
import torch
from perturbations import inputs, small_unet
from torch import Tensor

import samplers
from sdlab import guidance
from sdlab.denoiser import NetworkDenoiser
from sdlab.guidance import Guided, Query
from sdlab.guidance.nag import ContrastedAttention
from sdlab.guidance.pag import IdentityAttention
from sdlab.guidance.schedule import time_of
from sdlab.guidance.seg import BlurredQueries
from sdlab.guidance.slg import SkippedTransformer
from sdlab.guidance.tpg import ShuffledTokens
from sdlab.guidance.tsg import NoisyTime
from sdlab.model.parametrisation import Eps
from sdlab.model.perturbation import Perturbation, RandomPerturbation
from sdlab.model.place import Place
from sdlab.sweep.pass_clock import PassClock

MODEL = NetworkDenoiser(small_unet(), samplers.discrete_levels(), Eps())
SIGMA = guidance.Level(1.7)
X, _, COND, UNCOND = inputs(8)
SEEDS = range(100, 108)
CONTEXTS = {"cond": COND, "uncond": UNCOND}
WORSE = {
    "pag": ({"layers": ("m0", "u1")}, IdentityAttention(("m0", "u1"))),
    "seg": ({"blur": 1.5}, BlurredQueries(("auto",), 1.5)),
    "slg": ({}, SkippedTransformer(("auto",))),
    "tpg": ({}, ShuffledTokens(("down",), SIGMA.hex())),
    "tsg": ({"noise": 2.0}, NoisyTime(key=SIGMA.hex(), size=2.0 * time_of(SIGMA))),
}
NAG = ContrastedAttention(("all",), 5.0, 2.5, 0.5)


def guided(name: str, rows: slice = slice(None), **options: object) -> Tensor:
    contexts = {key: context[rows] for key, context in CONTEXTS.items()}
    return Guided(guidance.make(name, **options), MODEL, contexts, SEEDS[rows])(X[rows], SIGMA)


def predicted(context: Tensor, perturbation: Perturbation | None = None) -> Tensor:
    random = isinstance(perturbation, RandomPerturbation)
    return MODEL(X, SIGMA, context, [replace(perturbation, seed=s) if random else perturbation for s in SEEDS], UNCOND)


def differ(a: Tensor, b: Tensor) -> bool:
    return bool((a - b).flatten(1).norm(dim=1).min() > 1e-3 * b.flatten(1).norm(dim=1).max())


@pytest.mark.parametrize("cfg", [0.0, 1.0, 4.0])
@pytest.mark.parametrize("name", WORSE)
def test_the_worse_prediction_is_another_one_and_guidance_moves_away_from_it(name: str, cfg: float):
    options, perturbation = WORSE[name]
    c, u, worse = predicted(COND), predicted(UNCOND), predicted(COND, perturbation)
    assert differ(worse, c)
    want = u + cfg * (c - u) + 2.5 * (c - worse)
    torch.testing.assert_close(guided(name, scale=2.5, cfg=cfg, **options), want, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("cfg", [0.0, 1.0, 4.0])
def test_normalised_attention_guides_inside_one_pass(cfg: float):
    pushed, u = predicted(COND, NAG), predicted(UNCOND)
    assert differ(pushed, predicted(COND))
    torch.testing.assert_close(guided("nag", cfg=cfg), u + cfg * (pushed - u), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize(
    ("name", "neutral"),
    [*((name, {"scale": 0.0}) for name in [*WORSE, "sag"]), ("nag", {"scale": 1.0}), ("nag", {"blend": 0.0})],
)
@pytest.mark.parametrize("cfg", [0.0, 1.0, 4.0])
def test_the_neutral_setting_is_classifier_free_guidance(name: str, neutral: dict[str, float], cfg: float):
    assert torch.equal(guided(name, cfg=cfg, **neutral), guided("cfg", scale=cfg))
    strategies = guidance.make(name, cfg=cfg, **neutral), guidance.make("cfg", scale=cfg)
    assert strategies[0].queries(SIGMA) == strategies[1].queries(SIGMA)


@pytest.mark.parametrize(
    ("name", "options"),
    [("seg", {"blur": 0.0}), ("sag", {"blur": 0.0}), ("sag", {"threshold": 1e9}), ("tsg", {"noise": 0.0})],
)
def test_a_perturbation_of_no_size_is_neutral_too(name: str, options: dict[str, float]):
    torch.testing.assert_close(guided(name, **options), predicted(COND), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("power", [0.0, 1.0, 2.5])
def test_time_step_guidance_has_more_noise_at_higher_levels(power: float):
    sizes = [
        guidance.make("tsg", power=power, noise=0.7).queries(guidance.Level(s))[1].perturbation.size for s in (0.5, 1)
    ]
    assert sizes[1] == pytest.approx(0.7 * 0.5**power)  # t = 1/2 at σ = 1
    assert sizes[0] == pytest.approx(sizes[1] * (time_of(0.5) / 0.5) ** power)


@pytest.mark.parametrize(
    ("name", "options", "passes"),
    [
        *((name, {"cfg": cfg}, passes) for name in WORSE for cfg, passes in ((1.0, 2), (4.0, 3), (0.0, 3))),
        *(("nag", {"cfg": cfg}, passes) for cfg, passes in ((1.0, 1), (4.0, 2), (0.0, 1))),
        ("pag", {"scale": 0.0, "cfg": 0.0}, 1),
    ],
)
def test_passes_are_those_of_the_network(name: str, options: dict[str, float], passes: int):
    clock = PassClock()
    denoise = Guided(guidance.make(name, **options), clock.watch(MODEL), CONTEXTS, SEEDS)
    denoise(X, SIGMA)
    assert denoise.passes == clock.passes / len(X) == passes


@pytest.mark.parametrize("name", [*WORSE, "nag"])
def test_an_image_of_eight_is_that_image_alone(name: str):
    options = {} if name == "tsg" else {"layers": ("down", "auto")}
    batch = guided(name, cfg=3.0, **options)
    for i in range(8):
        alone = guided(name, slice(i, i + 1), cfg=3.0, **options)
        torch.testing.assert_close(batch[[i]], alone, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name", ["tpg", "tsg"])
def test_random_perturbations_are_new_at_every_level_and_alike_in_every_run(name: str):
    strategy = guidance.make(name)
    assert strategy.queries(SIGMA) == strategy.queries(SIGMA)
    assert strategy.queries(SIGMA) != strategy.queries(SIGMA + 1e-6)
    torch.manual_seed(0)
    first = guided(name)
    torch.manual_seed(1)
    assert torch.equal(first, guided(name))


@pytest.mark.parametrize("name", ["tpg", "tsg"])
def test_each_image_has_the_random_perturbation_of_its_seed(name: str):
    x, contexts = X[:1].expand(3, -1, -1, -1), {key: one[:1] for key, one in CONTEXTS.items()}
    contexts["cond"] = contexts["cond"].expand(3, -1, -1)
    same, other, again = Guided(guidance.make(name), MODEL, contexts, [4, 5, 4])(x, SIGMA)
    torch.testing.assert_close(same, again, rtol=1e-8, atol=1e-8)
    assert (same - other).norm() > 1e-3 * same.norm()
    with pytest.raises(ValueError, match="is random and needs `seeds`, one per image"):
        Guided(guidance.make(name), MODEL, contexts)(x, SIGMA)


@pytest.mark.parametrize(
    ("name", "options"), [("pag", {}), ("slg", {"cfg": 3.0}), ("nag", {"cfg": 2.0}), ("autoguidance", {"scale": 2.3})]
)
def test_the_blend_is_the_same_in_every_space(name: str, options: dict[str, float]):
    strategy = guidance.make(name, **options)
    predictions = tuple(torch.randn_like(X) for _ in strategy.queries(SIGMA))
    as_noise = tuple((X - x0) / SIGMA for x0 in predictions)
    x0, noise = (strategy.combine(given, X, SIGMA, None)[0] for given in (predictions, as_noise))
    torch.testing.assert_close(x0, X - SIGMA * noise)


def test_a_limit_on_the_norm_and_its_absence():
    wide, tight = (predicted(COND, ContrastedAttention(("all",), 9.0, limit, 1.0)) for limit in (1e9, 1.0))
    assert differ(wide, tight)
    state, other = torch.randn(2, 3, 4, dtype=torch.float64), torch.randn(2, 3, 4, dtype=torch.float64)
    place = Place()
    for limit in (1.0, 1.7):
        changed = ContrastedAttention(("all",), 30.0, limit, 1.0).change(state, other, place)
        torch.testing.assert_close(changed.abs().sum(-1), limit * state.abs().sum(-1))
    zero = torch.zeros(1, 1, 4)
    assert torch.equal(ContrastedAttention(("all",)).change(zero, zero, place), zero)


def test_a_query_without_its_negative_context_is_an_error():
    denoise = Guided(guidance.make("nag"), MODEL, {"cond": COND})
    with pytest.raises(ValueError, match="unknown context 'uncond'"):
        denoise(X, SIGMA)


def test_a_strategy_of_the_user_can_perturb_at_any_point():
    class Halved(IdentityAttention):
        def change(self, state: Tensor, other: Tensor, place: Place) -> Tensor:
            return state / 2

    class Mine(guidance.Contrast):
        def worse(self, sigma: float) -> Query:
            return Query("cond", Halved(("all",)))

    want = predicted(COND) + 3 * (predicted(COND) - predicted(COND, Halved(("all",))))
    torch.testing.assert_close(Guided(Mine(), MODEL, CONTEXTS)(X, SIGMA), want, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("pag", {"scale": -1.0}, "PerturbedAttention.scale must be a number of at least 0, got -1.0"),
        ("slg", {"scale": inf}, "SkipLayer.scale must be a number of at least 0, got inf"),
        ("tpg", {"cfg": -1.0}, "TokenPerturbation.cfg must be a number of at least 0, got -1.0"),
        ("tsg", {"noise": -1.0}, "TimeStep.noise must be a number of at least 0, got -1.0"),
        ("tsg", {"power": -1.0}, "TimeStep.power must be a number of at least 0, got -1.0"),
        ("seg", {"blur": -1.0}, "SmoothedEnergy.blur must be a number of at least 0, got -1.0"),
        ("pag", {"layers": ()}, "layers must name at least one transformer"),
        ("nag", {"layers": ()}, "layers must name at least one transformer"),
        ("nag", {"blend": 1.5}, r"NormalisedAttention.blend must be in \[0, 1\], got 1.5"),
        ("nag", {"limit": 0.5}, "NormalisedAttention.limit must be a number of at least 1, got 0.5"),
        ("autoguidance", {"scale": -1}, "Autoguidance.scale must be a number of at least 0, got -1"),
        ("autoguidance", {"network": ""}, "Autoguidance.network must be the name of a network"),
    ],
)
def test_invalid_options(name: str, options: dict[str, object], message: str):
    with pytest.raises(ValueError, match=message):
        guidance.make(name, **options)
