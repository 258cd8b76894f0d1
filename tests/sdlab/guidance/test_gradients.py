"""Queries with a loss, whose gradient runs through the network, and universal guidance."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from perturbations import inputs, small_unet
from tiny_model import write_tiny
from torch import Tensor

import samplers
from samplers.exact.problems import Gaussian
from sdlab import guidance
from sdlab.cpu.optimise import optimise_for_inference
from sdlab.cpu.pack import is_packed
from sdlab.cpu.packed import can_pack
from sdlab.denoiser import NetworkDenoiser, Sigma
from sdlab.guidance import Guided, Level, Loss, Query, State
from sdlab.guidance.universal import PROJECTIONS, Distance
from sdlab.model.diffusion import Unet
from sdlab.model.parametrisation import Eps
from sdlab.pipeline import Pipeline
from sdlab.weights.locate import ModelSource
from sdlab.weights.model_loader import load

MODEL = NetworkDenoiser(small_unet(), samplers.discrete_levels(), Eps())
SIGMA = 1.7
X, _, COND, UNCOND = inputs(4)
CONTEXTS = {"cond": COND, "uncond": UNCOND}


def slope(loss: Loss, x: Tensor, sigma: float, context: Tensor) -> Tensor:
    """∇ₓ ℓ(D(x))."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        return torch.autograd.grad(loss.of(MODEL(x, sigma, context)).sum(), x)[0]


@pytest.mark.parametrize("towards", PROJECTIONS)
@pytest.mark.parametrize("cfg", [0.0, 1.0, 4.0])
def test_universal_guidance_is_the_papers_forward_guidance(towards: str, cfg: float):
    """ε̂ = ε + s √(1 − ᾱ) ∇_z ℓ(x̂₀), with the paper's z = x √ᾱ."""
    scale, alpha = 0.6, 1 / (1 + SIGMA**2)
    noise = {name: (X - MODEL(X, SIGMA, context)) / SIGMA for name, context in CONTEXTS.items()}
    by_z = slope(Distance(towards), X, SIGMA, COND) / alpha**0.5
    want = noise["uncond"] + cfg * (noise["cond"] - noise["uncond"]) + scale * (1 - alpha) ** 0.5 * by_z
    denoise = Guided(guidance.make("universal", scale=scale, cfg=cfg, towards=towards), MODEL, CONTEXTS)
    found = (X - denoise(X, SIGMA)) / SIGMA
    torch.testing.assert_close(found, want, rtol=1e-8, atol=1e-8)
    assert (scale * by_z).flatten(1).norm(dim=1).min() > 1e-2
    assert denoise.passes == {0.0: 3, 1.0: 2, 4.0: 3}[cfg]


def test_the_gradient_is_that_of_finite_differences():
    step = 1e-5 * torch.randn_like(X)
    ends = [Distance("mirror").of(MODEL(X + sign * step, SIGMA, COND)) for sign in (1, -1)]
    moved = Guided(guidance.make("universal"), MODEL, CONTEXTS)(X, SIGMA) - MODEL(X, SIGMA, COND)
    torch.testing.assert_close((ends[0] - ends[1]) / 2, -(moved * step).flatten(1).sum(1) / SIGMA**2, rtol=1e-6, atol=0)


def test_each_image_is_at_its_own_level():
    sigmas = torch.tensor([0.4, 1.7, 0.4, 6.0], dtype=torch.float64)
    together = Guided(guidance.make("universal", cfg=2.0), MODEL, CONTEXTS)(X, sigmas)
    for i, sigma in enumerate(sigmas.tolist()):
        contexts = {key: one[[i]] for key, one in CONTEXTS.items()}
        alone = Guided(guidance.make("universal", cfg=2.0), MODEL, contexts)(X[[i]], sigma)
        torch.testing.assert_close(together[[i]], alone, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("towards", PROJECTIONS)
def test_on_a_gaussian_the_distance_falls_by_the_posterior_variance(towards: str):
    """D = k x + (1 − k) m, so ∇ₓ ℓ = k (D − P D), and σ² k is the variance v of x₀ given x: D − v (D − P D)."""
    law, project = Gaussian(0.8, 0.3), PROJECTIONS[towards]
    contexts = {"cond": torch.zeros(4, 1), "uncond": torch.zeros(4, 1)}

    def model(x: Tensor, sigma: Sigma, context: Tensor) -> Tensor:
        return law.denoise(x, sigma)

    plain = law.denoise(X, SIGMA)
    variance = 1 / (1 / 0.8**2 + 1 / SIGMA**2)
    found = Guided(guidance.make("universal", scale=0.7, towards=towards), model, contexts)(X, SIGMA)
    torch.testing.assert_close(found, plain - 0.7 * variance * (plain - project(plain)))
    levels = samplers.continuous_levels(0.02, 20.0)
    sigmas = samplers.grid("karras", steps=30, levels=levels)
    ends = [
        samplers.run(
            samplers.make("heun"), Guided(guidance.make("universal", scale=s), model, contexts), 20 * X, sigmas
        )
        for s in (0.0, 4.0)
    ]
    free, led = (Distance("mirror").of(end) for end in ends)
    assert (led < 0.1 * free).all()


@dataclass(frozen=True)
class Labelled:
    """Two losses, one of a prediction with another label, beside a plain prediction."""

    def queries(self, sigma: Level) -> tuple[Query, ...]:
        """Three predictions."""
        mirror, grey = Distance("mirror"), Distance("grey")
        return Query("cond"), Query("uncond", loss=mirror, label=2.5), Query("cond", loss=grey)

    def combine(self, predictions: tuple[Tensor, ...], x: Tensor, sigma: Level, state: State) -> tuple[Tensor, State]:
        """All of them, side by side in the state."""
        return predictions[0], predictions


def test_each_loss_moves_its_own_prediction():
    denoise = Guided(Labelled(), MODEL, CONTEXTS)
    plain = denoise(X, SIGMA)
    assert torch.equal(plain, MODEL(X, SIGMA, COND))
    assert denoise.passes == 3
    states = [
        torch.stack(rows) for rows in zip(*(one for one in denoise._states.each() if one is not None), strict=True)
    ]

    def other_label(x: Tensor) -> Tensor:
        scaled = x * ((1 + 2.5**2) / (1 + SIGMA**2)) ** 0.5
        return x - SIGMA / 2.5 * (scaled - MODEL(scaled, 2.5, UNCOND))

    with torch.enable_grad():
        x = X.clone().requires_grad_()
        x0 = other_label(x)
        (gradient,) = torch.autograd.grad(Distance("mirror").of(x0).sum(), x)
    torch.testing.assert_close(states[1], x0.detach() - SIGMA**2 * gradient, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(
        states[2], plain - SIGMA**2 * slope(Distance("grey"), X, SIGMA, COND), rtol=1e-9, atol=1e-9
    )


def test_it_works_in_inference_mode_and_leaves_no_graph():
    want = Guided(guidance.make("universal", cfg=3.0), MODEL, CONTEXTS)(X, SIGMA)
    assert not want.requires_grad
    with torch.inference_mode():
        contexts = {key: one * 1.0 for key, one in CONTEXTS.items()}
        found = Guided(guidance.make("universal", cfg=3.0), MODEL, contexts)(X * 1.0, SIGMA)
    torch.testing.assert_close(found, want, rtol=1e-12, atol=1e-12)


def latents(pipeline: Pipeline, strategy: str) -> Tensor:
    cond, uncond = (pipeline.encode([text]).expand(2, -1, -1) for text in ("a red circle", ""))
    sigmas = samplers.grid("trailing", steps=3, levels=pipeline.levels)
    return pipeline.sample(cond, uncond, samplers.make("heun"), sigmas, guidance.make(strategy, cfg=2.0), [3, 4])


@pytest.mark.skipif(not can_pack(torch.device("cpu"), torch.float32), reason="no packed weights here")
def test_a_packed_model_has_a_copy_with_gradients_for_them_alone(tmp_path: Path):
    """Packed layers have none, so without the copy only the residual connections would be differentiated."""
    model = load(ModelSource(str(write_tiny(tmp_path / "tiny"))))
    plain, fast = Pipeline(deepcopy(model)), optimise_for_inference(model, gradients=True)
    assert is_packed(fast.unet)
    assert fast.plain is not None
    assert not is_packed(fast.plain)
    torch.testing.assert_close(latents(Pipeline(fast), "universal"), latents(plain, "universal"), rtol=1e-4, atol=1e-4)
    unprepared = optimise_for_inference(deepcopy(plain.model))
    assert unprepared.plain is None
    with pytest.raises(ValueError, match="packed networks have no gradients"):
        latents(Pipeline(unprepared), "universal")


def test_an_offloaded_network_keeps_its_gradients(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Moving to another device makes new weights. Those made in inference mode cannot be differentiated."""
    model = load(ModelSource(str(write_tiny(tmp_path / "tiny"))))
    kept = latents(Pipeline(model), "universal")
    monkeypatch.setattr(Unet, "to", lambda unet, _: unet._apply(torch.clone))
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        found = latents(Pipeline(model, offload="cpu"), "universal")
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(False)
    torch.testing.assert_close(found, kept)


@dataclass(frozen=True)
class Total(Distance):
    """One value for the whole batch."""

    def of(self, x0: Tensor) -> Tensor:
        """The sum."""
        return super().of(x0).sum()


def test_losses_that_cannot_be_differentiated_are_one_line():
    @dataclass(frozen=True)
    class Summed(guidance.GUIDANCE["universal"]):  # type: ignore[name-defined,misc]
        def loss(self) -> Loss:
            return Total("mirror")

    with pytest.raises(ValueError, match=r"Total must return one value per image, \(4,\); got \(\)"):
        Guided(Summed(), MODEL, CONTEXTS)(X, SIGMA)

    @torch.no_grad()
    def cut_off(*arguments: Tensor, **_: object) -> Tensor:
        return MODEL(*arguments)

    with pytest.raises(ValueError, match="Universal needs gradients, which the model does not give"):
        Guided(guidance.make("universal"), cut_off, CONTEXTS)(X, SIGMA)
    with pytest.raises(ValueError, match="a query with a loss can have neither an input nor another network"):
        Query("cond", network="early", loss=Distance("mirror"))
    with pytest.raises(ValueError, match=r"unknown Universal.towards 'miror' \(did you mean 'mirror'\?\)"):
        guidance.make("universal", towards="miror")
