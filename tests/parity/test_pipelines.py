"""Pipeline parity: the same picture as diffusers' pipelines from the same prompts, weights, noise and DDIM settings.

Two conventions differ and are bridged here. diffusers starts from noise of variance 1. A run in the σ clock starts from
x = σ ε, which in their scaling is √(σ²/(1+σ²)) ε, so they are given that. And v1.5 was published with
`set_alpha_to_one=False`: the last step goes to timestep 0, and the noise left there is decoded with the rest. So our
grid ends at σ_min instead of 0, and the result is converted to their scaling.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionImg2ImgPipeline, StableDiffusionPipeline
from references import SMALL, checkpoint, our_pipeline, their_components, their_scheduler
from torch import Tensor

import samplers
from samplers.ddim import DDIM
from sdlab import guidance

pytestmark = pytest.mark.slow
PROMPTS = ["A cat stretching on the floor, highly detailed", "ein Hund im Park, 4K"]
NEGATIVE = ["blurry", ""]
WIDTH, HEIGHT = 96, 56
LATENTS = 2, 4, HEIGHT // 8, WIDTH // 8
SCALE = 7.5
EXACT = 1e-12  # rounding alone leaves about 1e-14
LEVELS = samplers.discrete_levels()


@dataclass(frozen=True)
class Run:
    """The settings of a run on both sides."""

    steps: int = 6
    spacing: str = "leading"  # and `steps_offset` 1, as v1.5 has it
    to_one: bool = False
    scale: float = SCALE
    eta: float = 0.0
    strength: float = 1.0

    @property
    def sigmas(self) -> tuple[float, ...]:
        options = {"offset": 1} if self.spacing == "leading" else {}
        sigmas = samplers.grid(self.spacing, steps=self.steps, levels=LEVELS, **options)
        return sigmas if self.to_one else (*sigmas[:-1], LEVELS.sigma_min)


class Sides:
    """Our pipeline and the components of theirs, with the same weights."""

    def __init__(self, dtype: torch.dtype, clip_bpe: Path) -> None:
        weights = checkpoint(SMALL, dtype)
        self.dtype = dtype
        self.ours = our_pipeline(weights, SMALL, clip_bpe)
        self.components = their_components(weights, SMALL, clip_bpe)

    def draws(self, seed: int, count: int) -> list[Tensor]:
        """Noise as their pipelines draw it, in one tensor for all pictures."""
        generator = torch.Generator().manual_seed(seed)
        return [torch.randn(LATENTS, generator=generator, dtype=self.dtype) for _ in range(count)]

    def our_latents(self, run: Run, noise: list[Tensor], init: Tensor | None = None) -> Tensor:
        """Latents in their scaling, as the decoder receives them."""
        ready, sigmas = iter(noise), run.sigmas
        latents = self.ours.sample(
            self.ours.encode(PROMPTS),
            self.ours.encode(NEGATIVE),
            DDIM(eta=run.eta),
            sigmas,
            guidance.make("cfg", scale=run.scale),
            lambda like: next(ready),
            size=(HEIGHT, WIDTH),
            init=init,
            strength=run.strength,
        )
        return latents / (1 + sigmas[-1] ** 2) ** 0.5

    def our_picture(self, latents: Tensor) -> Tensor:
        """Pictures in [0, 1] before rounding to the 256 levels of a PNG."""
        vae = self.ours.model.vae
        with torch.no_grad():
            return (vae.decode(vae.from_latents(latents)) / 2 + 0.5).clamp(0, 1)

    def their_picture(self, kind: Any, run: Run, **arguments: Any) -> Tensor:
        """Pictures in [0, 1]. In float64 their scheduler uses our table, as it computes its own in float32."""
        scheduler = their_scheduler(run.spacing, run.to_one)
        table = torch.tensor(LEVELS.alpha_bars, dtype=torch.float64)
        torch.testing.assert_close(scheduler.alphas_cumprod, table.float())
        if self.dtype == torch.float64:
            scheduler.alphas_cumprod = table
            scheduler.final_alpha_cumprod = torch.ones(()) if run.to_one else table[0]
        pipeline = kind(scheduler=scheduler, **self.components)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline(
            prompt=PROMPTS,
            negative_prompt=NEGATIVE,
            num_inference_steps=run.steps,
            guidance_scale=run.scale,
            eta=run.eta,
            output_type="pt",
            **arguments,
        ).images


@pytest.fixture(scope="module")
def double(clip_bpe):
    return Sides(torch.float64, clip_bpe)


@pytest.fixture(scope="module")
def single(clip_bpe):
    return Sides(torch.float32, clip_bpe)


def text_to_image(sides: Sides, run: Run) -> tuple[Tensor, Tensor]:
    (noise,), steps = sides.draws(0, 1), sides.draws(1, run.steps)
    sigma = run.sigmas[0]
    wanted = sides.their_picture(
        StableDiffusionPipeline,
        run,
        latents=noise * sigma / (1 + sigma**2) ** 0.5,
        generator=torch.Generator().manual_seed(1),
        width=WIDTH,
        height=HEIGHT,
    )
    return sides.our_picture(sides.our_latents(run, [noise, *steps])), wanted


def image_to_image(sides: Sides, run: Run) -> tuple[Tensor, Tensor]:
    images = torch.rand(2, 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(2)).to(sides.dtype)
    posterior, *noise = sides.draws(3, 2 + run.steps)
    wanted = sides.their_picture(
        StableDiffusionImg2ImgPipeline,
        run,
        image=images,
        strength=run.strength,
        generator=torch.Generator().manual_seed(3),
    )
    init = sides.ours.encode_image(2 * images - 1, posterior)
    return sides.our_picture(sides.our_latents(run, noise, init)), wanted


@pytest.mark.parametrize(
    "run",
    [
        Run(),
        Run(to_one=True),
        # Where the steps do not divide 1000, their scheduler steps to levels beside its own trailing ones.
        Run(spacing="trailing", steps=5),
        Run(spacing="trailing", steps=5, to_one=True),
        Run(scale=1.0),
        Run(eta=0.6),
    ],
    ids=str,
)
def test_text_to_image(double, run):
    ours, wanted = text_to_image(double, run)
    assert wanted.std() > 0.1
    assert (ours - wanted).abs().max() < EXACT


# At strength 1 theirs still starts from a trace of the picture. Ours starts from pure noise, as text-to-image does.
@pytest.mark.parametrize("run", [Run(strength=0.4), Run(strength=0.99), Run(strength=0.7, eta=0.6)], ids=str)
def test_image_to_image(double, run):
    ours, wanted = image_to_image(double, run)
    assert wanted.std() > 0.1
    assert (ours - wanted).abs().max() < EXACT


@pytest.mark.parametrize(
    ("make", "run"),
    [(text_to_image, Run(steps=20)), (image_to_image, Run(steps=20, strength=0.6))],
    ids=["text-to-image", "image-to-image"],
)
def test_in_float32_with_their_own_table(single, make, run):
    ours, wanted = make(single, run)
    assert (ours - wanted).abs().max() < 1e-4


def test_pictures_are_decoded_to_the_nearest_of_256_levels(double):
    latents = double.our_latents(Run(steps=1), double.draws(0, 1))
    error = double.ours.decode(latents) / 2 + 0.5 - double.our_picture(latents)
    assert 0.4 / 255 < error.abs().max() < 0.501 / 255
