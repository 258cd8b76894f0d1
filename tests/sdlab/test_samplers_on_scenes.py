"""On the lab model every deterministic sampler converges to the same picture as calls increase."""

from __future__ import annotations

from functools import cache
from math import log

import pytest
import torch
from lab_model import lab_pipeline
from torch import Tensor

import samplers
from samplers.denoiser import Unguided

PROMPTS = ["a large red circle left of a large blue square on a white background", "a small green star on black"]
DETERMINISTIC = [name for name in samplers.SAMPLERS if not samplers.make(name).stochastic]
CALLS = (10, 50, 400)

pytestmark = pytest.mark.slow


class Scenes:
    """The unguided flow of the lab model, in float32, from noise to σ_min, without the last step to 0."""

    def __init__(self) -> None:
        pipeline = lab_pipeline()
        context = pipeline.encode(PROMPTS)
        self.levels = pipeline.levels
        self.denoise = Unguided(lambda x, sigma: pipeline.denoiser(x, sigma, context))
        shape = pipeline.model.config.latent_shape
        self.noise = samplers.seeded([0, 1])(torch.empty(len(PROMPTS), *shape)) * self.levels.sigma_max
        with torch.inference_mode():
            self.reference, other = (
                samplers.converged(self.denoise, self.noise, self.grid(2), steps) for steps in (500, 250)
            )
        self.deviation = self.reference.std().item()
        self.resolution = self.distance(other)  # how well the reference itself is known

    def grid(self, steps: int) -> tuple[float, ...]:
        """Even in σ^{1/7}, a compromise between samplers in σ and samplers in log σ."""
        return samplers.grid("karras", steps=steps, levels=self.levels, ending="stop_at_sigma_min")

    def within(self, sampler: samplers.Sampler, calls: int) -> tuple[float, ...]:
        """The finest grid on which the sampler makes no more than so many calls."""
        grids = (self.grid(steps) for steps in range(calls, 0, -1))
        return next(grid for grid in grids if (sampler.nfe(grid) or 0) <= calls)

    def distance(self, latents: Tensor) -> Tensor:
        """RMS distance to the reference per image, in standard deviations of the latents."""
        return (latents - self.reference).square().mean((1, 2, 3)).sqrt() / self.deviation

    @torch.inference_mode()
    def gap(self, sampler: samplers.Sampler, sigmas: tuple[float, ...]) -> Tensor:
        sampler = sampler.with_levels(self.levels)
        return self.distance(samplers.run(sampler, self.denoise, self.noise, sigmas))


@cache
def the_model() -> Scenes:
    return Scenes()


@pytest.mark.parametrize("name", [name for name in DETERMINISTIC if name != "dpm_adaptive"])
def test_the_latents_of_every_image_come_to_the_converged_ones(name):
    """Nearer with more calls, and in the end as near as the order lets expect.

    A trained network is no smooth function (its timesteps are a table, between whose entries it was never asked), so
    beyond the first order distances fall more slowly than for a closed form, and in jumps: at 100 and 200 steps every
    sampler of second order has the distance of the grid, which can be that of 50. What is asked of those samplers is
    that nothing of the distance is left to see: a grey level of 255. Euler itself ends within a step in log σ.
    """
    scenes, sampler = the_model(), samplers.make(name)
    first, second, last = (scenes.gap(sampler, scenes.within(sampler, calls)) for calls in CALLS)
    assert (second < first).all()
    assert (last < second).all()
    step = log(scenes.levels.sigma_max / scenes.levels.sigma_min) / CALLS[-1]
    assert (last < (1 / 255 if sampler.order > 1 else step)).all()


def test_an_adaptive_sampler_converges_with_its_tolerance():
    """A thousandth of the tolerance for less than a fiftieth of the distance: it follows it, if not one for one.

    In between it falls in jumps, since the network is no smooth function of the level (as above).
    """
    scenes, sampler = the_model(), samplers.make("dpm_adaptive")
    coarse, fine = (scenes.gap(sampler.with_tolerance(rtol), scenes.grid(1)) for rtol in (1e-1, 1e-4))
    assert (fine < coarse / 50 + scenes.resolution).all()
