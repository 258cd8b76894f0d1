"""Adversarial and perceptual losses."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from math import exp, log
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from sdlab.model.clip import ClipVision
from sdlab.model.config import ClipVisionConfig
from sdlab.train.loop import train
from sdlab.train.losses.adversarial import (
    PatchDiscriminator,
    adaptive_weight,
    discriminator_loss,
    generator_loss,
    gradient_penalty,
)
from sdlab.train.losses.perceptual import ClipFeatures, perceptual_distance
from sdlab.train.stage import Loss
from sdlab.train.stages.vae_config import VaeTraining
from sdlab.weights.model_folder import save_config
from tests.support.training import QUIET, TINY, keys


def test_the_losses_are_those_of_their_equations() -> None:
    real, fake = torch.tensor([0.5, 2.0]), torch.tensor([-3.0, 0.25])
    assert float(discriminator_loss(real, fake, "hinge")) == pytest.approx((0.5 + 0) / 2 + (0 + 1.25) / 2)
    assert float(generator_loss(fake, "hinge")) == pytest.approx((3 - 0.25) / 2)

    def s(x: float) -> float:
        return 1 / (1 + exp(-x))

    expected = -(log(s(0.5)) + log(s(2.0))) / 2 - (log(1 - s(-3.0)) + log(1 - s(0.25))) / 2
    assert float(discriminator_loss(real, fake, "non-saturating")) == pytest.approx(expected, rel=1e-5)
    assert float(generator_loss(fake, "non-saturating")) == pytest.approx(-(log(s(-3.0)) + log(s(0.25))) / 2, rel=1e-5)


def test_the_gradient_penalty_of_a_linear_discriminator_is_its_squared_norm() -> None:
    linear = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 1))
    penalty = gradient_penalty(linear, torch.randn(5, 3, 8, 8))
    assert torch.allclose(penalty, linear[1].weight.square().sum(), rtol=1e-5)
    penalty.backward()
    assert torch.allclose(linear[1].weight.grad, 2 * linear[1].weight, rtol=1e-5)


def test_the_adaptive_weight_makes_both_gradients_equally_long() -> None:
    layer = torch.randn(4, 3, requires_grad=True)
    reconstruction, adversarial = (3 * layer).square().sum(), layer.sin().sum()
    weight = adaptive_weight(reconstruction, adversarial, layer)
    assert not weight.requires_grad
    lengths = [
        torch.autograd.grad(x, layer, retain_graph=True)[0].norm() for x in (reconstruction, weight * adversarial)
    ]
    assert torch.allclose(*lengths, rtol=1e-4)
    assert adaptive_weight(reconstruction, 0 * adversarial, layer) == 1e4


def test_a_logit_sees_a_patch_of_18_pixels() -> None:
    network = PatchDiscriminator(8, spectral=False)
    images = torch.randn(1, 3, 64, 64, requires_grad=True)
    logits = network(images)
    assert logits.shape == (1, 1, 16, 16)
    [gradient] = torch.autograd.grad(logits[0, 0, 8, 8], images)
    rows, columns = gradient[0].abs().sum(0).nonzero().unbind(1)
    assert rows.max() - rows.min() + 1 == columns.max() - columns.min() + 1 == 18


def test_spectral_normalisation_brings_every_layer_to_norm_one() -> None:
    torch.manual_seed(0)
    network = PatchDiscriminator(8, spectral=True)
    for _ in range(50):
        network(torch.randn(1, 3, 16, 16))
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            assert float(torch.linalg.matrix_norm(layer.weight.detach().flatten(1), 2)) == pytest.approx(1, abs=0.02)


def test_the_perceptual_distance_is_zero_for_equal_pictures_and_ignores_the_length_of_features() -> None:
    a, b = torch.randn(2, 3, 8, 8), torch.randn(2, 3, 8, 8)
    features = ClipFeatures(ClipVision(ClipVisionConfig(16, 4, 16, 2, 2, 16)))  # pictures of another size are resized
    assert perceptual_distance(features, a, a).abs().max() < 1e-5
    assert (perceptual_distance(features, a, b) > 0.01).all()
    plain = perceptual_distance(lambda x: [x.flatten(2)], a, b)
    assert torch.allclose(perceptual_distance(lambda x: [7 * x.flatten(2)], a, b), plain, rtol=1e-5)
    unit = [x.flatten(2) / x.flatten(2).norm(dim=-1, keepdim=True) for x in (a, b)]
    assert torch.allclose(plain, (unit[0] - unit[1]).square().sum(-1).mean(1) / 2, rtol=1e-4)


def adversarial_run(folder: Path, steps: int, stop: int | None = None, **changes: object) -> Path:
    """The `out` of a run whose discriminator starts at step 3, interrupted in step `stop`."""
    table = {"start": 3, "weight": 0.5, "r1": 1.0, "r1_every": 2, "width": 4, **changes}
    config = VaeTraining(**keys(folder, steps=steps, adversarial=table))
    if not Path(config.model).exists():
        save_config(Path(config.model), TINY)
    stage = config.build()
    losses = stage.losses

    def interrupted(step: int, batch: tuple[Tensor, Tensor]) -> Iterator[Loss]:
        if step == stop:
            signal.raise_signal(signal.SIGINT)
        yield from losses(step, batch)

    stage.losses = interrupted
    train(stage, config, QUIET)
    return config.out


def columns(out: Path) -> dict[str, list[str]]:
    """The columns of the loss log."""
    names, *rows = [line.split(",") for line in (out / "log.csv").read_text().splitlines()]
    return {name: [row[k] for row in rows] for k, name in enumerate(names)}


@pytest.mark.slow
def test_the_discriminator_joins_at_its_start_and_both_losses_are_logged(tmp_path: Path) -> None:
    logged = columns(adversarial_run(tmp_path, 11))
    assert {"vae_loss", "discriminator_loss", "l1", "adversarial", "adversarial_weight"} <= set(logged)
    assert logged["discriminator_loss"][0] == ""
    assert float(logged["discriminator_loss"][-1]) > 0
    assert "discriminator_loss" not in columns(adversarial_run(tmp_path / "never", 2))


@pytest.mark.parametrize("form", ["hinge", "non-saturating"])
@pytest.mark.parametrize("stop", [2, 5])
@pytest.mark.slow
def test_a_run_with_a_discriminator_resumes_bit_for_bit(form: str, stop: int, tmp_path: Path) -> None:
    whole = adversarial_run(tmp_path / "whole", 8, form=form)
    with pytest.raises(KeyboardInterrupt):
        adversarial_run(tmp_path / "parts", 8, stop=stop, form=form)
    parts = adversarial_run(tmp_path / "parts", 8, form=form)
    expected, resumed = (torch.load(out / "checkpoint.pt", weights_only=True)["trained"] for out in (whole, parts))
    for network in ("vae", "discriminator"):
        for name, tensor in expected[network]["module"].items():
            assert torch.equal(tensor, resumed[network]["module"][name]), name
