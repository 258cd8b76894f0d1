"""Custom models with a text and a picture as conditions."""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import Tensor

import samplers
from sdlab import guidance
from sdlab.backends.bare import OpenedDenoiser
from sdlab.backends.custom_model import CustomModel
from sdlab.denoiser import Sigma

PICTURES, TEXTS = torch.tensor([0.3, -0.4]), torch.tensor([0.5, 2.0])


def opened(two: bool) -> OpenedDenoiser:
    """Every picture is the constant picture + text of its context."""

    def denoise(x: Tensor, sigma: Sigma, context: Tensor) -> Tensor:
        return torch.zeros_like(x) + context.sum(1, keepdim=True)

    contexts = torch.stack([PICTURES, TEXTS], dim=1), torch.zeros(1, 2)
    drop = torch.tensor([1.0, 0.0])
    model = CustomModel(
        denoise,
        samplers.continuous_levels(0.1, 10.0),
        (3,),
        contexts,
        without_text=(lambda c: c * drop) if two else None,
    )
    return OpenedDenoiser("mine", {}, "mine", {}, model, nullcontext)


def test_dual_guidance_weighs_the_picture_and_the_text_of_each_image():
    model = opened(True).load("cpu", torch.float32, False)
    cond, uncond = model.contexts((), "")
    strategy = guidance.make("dual", scale=3.0, image=1.5)
    samples = model.sample(cond, uncond.expand(2, -1), samplers.make("euler"), (10.0, 1.0, 0.0), strategy, [0, 1])
    torch.testing.assert_close(samples, (1.5 * PICTURES + 3.0 * TEXTS)[:, None].expand(2, 3))


def test_a_model_says_whether_it_is_conditioned_on_pictures():
    assert opened(True).conditioned_on_pictures
    assert not opened(False).conditioned_on_pictures
