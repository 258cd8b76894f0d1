"""A pipeline of diffusers with a sampler of ours draws the picture of our own loop."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, StableDiffusionImg2ImgPipeline, StableDiffusionPipeline
from references import their_scheduler
from test_pipelines import HEIGHT, LATENTS, LEVELS, NEGATIVE, PROMPTS, SCALE, WIDTH, Sides
from torch import Tensor

import samplers
from sdlab import guidance
from sdlab.adapters.diffusers import SamplerScheduler

pytestmark = pytest.mark.slow
USABLE = [
    name for name in samplers.SAMPLERS if name != "dpm_adaptive" and not name.endswith("cfg_pp") and name != "cfg_pp"
]
STEPS = 4


@pytest.fixture(scope="module")
def sides(clip_bpe):
    return Sides(torch.float32, clip_bpe)


def pipeline(sides: Sides, kind: type, sampler: samplers.Sampler, grid: str, noise=None, **options: object):
    made = kind(scheduler=their_scheduler(), **sides.components)
    made.set_progress_bar_config(disable=True)
    made.scheduler = SamplerScheduler.like(made.scheduler, sampler, grid, noise, **options)
    return made


def drawn(pipe, noise: Tensor | None = None, **arguments: object) -> Tensor:
    """Latents of the pipeline."""
    if noise is not None:
        arguments |= {"latents": noise, "width": WIDTH, "height": HEIGHT}
    steps = arguments.pop("num_inference_steps", STEPS)
    return pipe(
        PROMPTS, negative_prompt=NEGATIVE, num_inference_steps=steps, guidance_scale=SCALE, output_type="latent",
        **arguments,
    ).images  # fmt: skip


def sampled(sides: Sides, sampler, sigmas, noise, init: Tensor | None = None, strength: float = 1.0) -> Tensor:
    """Latents of our loop."""
    context, uncond = sides.ours.encode(PROMPTS), sides.ours.encode(NEGATIVE)
    strategy = guidance.make("cfg", scale=SCALE)
    return sides.ours.sample(
        context, uncond, sampler, sigmas, strategy, noise, size=(HEIGHT, WIDTH), init=init, strength=strength
    )


def apart(ours: Tensor, theirs: Tensor) -> float:
    return ((ours - theirs).norm() / ours.norm()).item()


@pytest.mark.parametrize("name", USABLE)
def test_a_pipeline_draws_the_picture_of_our_loop(sides, name):
    options = {"s_tmax": 5.0} if name.startswith("edm") else {}  # no noise before the first call
    sampler = samplers.make(name, **options)
    sigmas = samplers.grid("karras", steps=STEPS, levels=LEVELS)
    wanted = sampled(sides, sampler, sigmas, samplers.seeded([5, 6]))
    stream = samplers.seeded([5, 6])
    noise = stream(torch.empty(LATENTS))
    found = drawn(pipeline(sides, StableDiffusionPipeline, sampler, "karras", noise=stream), noise)
    assert wanted.std() > 0.1
    assert apart(wanted, found) < 2e-4


def test_noise_comes_from_the_generators_of_the_pipeline(sides):
    sampler = samplers.make("euler_ancestral")
    pipe = pipeline(sides, StableDiffusionPipeline, sampler, "trailing")
    noise = torch.randn(LATENTS, generator=torch.Generator().manual_seed(0))

    def seeded(*seeds: int) -> list[torch.Generator]:
        return [torch.Generator().manual_seed(seed) for seed in seeds]

    first, again = (drawn(pipe, noise, generator=seeded(1, 2)) for _ in range(2))
    assert first.equal(again)
    swapped = drawn(pipe, noise, generator=seeded(1, 3))
    assert swapped[0].equal(first[0])
    assert apart(first[1], swapped[1]) > 0.1
    one = drawn(pipe, noise, generator=seeded(1)[0])
    assert apart(first, one) > 0.1


@pytest.mark.parametrize("name", ["dpmpp_2m", "heun", "euler_ancestral"])
def test_image_to_image_starts_in_the_middle_of_the_grid(sides, name):
    init = 0.5 * torch.randn(LATENTS, generator=torch.Generator().manual_seed(7))
    sampler, strength, steps = samplers.make(name), 0.5, 6
    sigmas = samplers.grid("trailing", steps=steps, levels=LEVELS)
    ready = iter(draws := [torch.randn(LATENTS, generator=torch.Generator().manual_seed(k)) for k in range(9)])
    wanted = sampled(sides, sampler, sigmas, lambda like: next(ready), init, strength)
    later = iter(draws[1:])
    pipe = pipeline(sides, StableDiffusionImg2ImgPipeline, sampler, "trailing", noise=lambda like: next(later))
    pipe.prepare_latents = lambda image, timestep, *_: pipe.scheduler.add_noise(init, draws[0], timestep)
    found = drawn(pipe, image=torch.zeros(2, 3, HEIGHT, WIDTH), strength=strength, num_inference_steps=steps)
    assert apart(wanted, found) < 2e-4


def test_a_step_of_several_calls_has_several_timesteps(sides):
    pipe = pipeline(sides, StableDiffusionPipeline, samplers.make("heun"), "trailing")
    pipe.scheduler.set_timesteps(3)
    times = [LEVELS.t(sigma) for sigma in samplers.grid("trailing", steps=3, levels=LEVELS)[:-1]]
    first, second, third = torch.tensor(times)
    assert pipe.scheduler.timesteps.tolist() == [first, second, second, third, third]
    assert pipe.scheduler.order == 2


def test_options_of_the_grid_and_of_the_sampler_count(sides):
    sampler = samplers.make("ddim", eta=0.5)
    pipe = pipeline(sides, StableDiffusionPipeline, sampler, "karras", rho=3.0)
    pipe.scheduler.set_timesteps(5)
    assert pipe.scheduler.sigmas == samplers.grid("karras", steps=5, levels=LEVELS, rho=3.0)


def test_latents_changed_by_a_callback_are_taken(sides):
    sampler = samplers.make("euler")
    noise = torch.randn(LATENTS, generator=torch.Generator().manual_seed(0))
    pipe = pipeline(sides, StableDiffusionPipeline, sampler, "trailing")

    def halve(pipe, i, t, values):
        return {"latents": values["latents"] / 2} if i == STEPS - 1 else {"latents": values["latents"].clone()}

    halved = drawn(pipe, noise, callback_on_step_end=halve)
    assert apart(drawn(pipe, noise) / 2, halved) < 1e-5


@pytest.mark.parametrize("name", ["euler", "dpmpp_2m", "heun", "dpmpp_sde"])
def test_a_flow_pipelines_loop(name):
    """As the pipelines of rectified flows write it: no scale, no first standard deviation, a velocity."""
    scheduler = SamplerScheduler.like(
        FlowMatchEulerDiscreteScheduler(), samplers.make(name), "trailing", noise=torch.zeros_like
    )
    levels = scheduler.levels

    def denoise(x: Tensor, sigma: float) -> Tensor:  # data of standard deviation ½ around 1
        return 1 + (x - 1) * 0.25 / (0.25 + sigma**2)

    noise = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    sigmas = samplers.grid("trailing", steps=8, levels=levels)
    wanted = samplers.run(samplers.make(name).with_levels(levels), denoise, noise * sigmas[0], sigmas, torch.zeros_like)
    scheduler.set_timesteps(sigmas=[1.0] * 8, mu=0.5)
    latents = noise
    for t in scheduler.timesteps:
        time = t / 1000
        sigma = (time / (1 - time)).item()
        x0 = denoise(latents * (1 + sigma), sigma)
        velocity = (latents - x0) / time
        latents = scheduler.step(velocity, t, latents, return_dict=False)[0]
    assert apart(wanted, latents) < 1e-3


def test_samplers_that_a_pipeline_cannot_run_say_why(sides):
    with pytest.raises(ValueError, match="DPMSolverAdaptive is adaptive, and a pipeline needs to know its timesteps"):
        pipeline(sides, StableDiffusionPipeline, samplers.make("dpm_adaptive"), "trailing")
    pipe = pipeline(sides, StableDiffusionPipeline, samplers.make("edm_heun"), "trailing")
    with pytest.raises(ValueError, match="EDMHeun adds noise before its first network call"):
        drawn(pipe, torch.zeros(LATENTS))
    name = next(name for name in samplers.SAMPLERS if name.endswith("cfg_pp"))
    with pytest.raises(ValueError, match="needs a guided denoiser"):
        pipeline(sides, StableDiffusionPipeline, samplers.make(name), "trailing")


def test_a_schedule_that_is_unknown_is_named():
    other = SimpleNamespace(config={"beta_schedule": "squaredcos_cap_v2", "beta_start": 1e-4, "beta_end": 0.02})
    with pytest.raises(Exception, match="SimpleNamespace: _class_name is 'SimpleNamespace'"):
        SamplerScheduler.like(other, samplers.make("euler"), "trailing")


def scheduler(name: str) -> SamplerScheduler:
    return SamplerScheduler.like(their_scheduler(), samplers.make(name), "trailing")


def test_calls_in_another_order_than_a_pipelines_say_so():
    x = torch.zeros(2, 4, 8, 8)
    begun = scheduler("ddim")
    for too_early in (
        lambda: begun.init_noise_sigma,
        lambda: begun.set_begin_index(0),
        lambda: begun.step(x, begun.timesteps, x),
    ):
        with pytest.raises(ValueError, match=r"^the scheduler has no timesteps yet; call set_timesteps first$"):
            too_early()
    begun.set_timesteps(2)
    for t in begun.timesteps:
        x = begun.step(x, t, x).prev_sample
    with pytest.raises(ValueError, match=r"^all steps are done; call set_timesteps to begin again$"):
        begun.step(x, begun.timesteps[-1], x)


@pytest.mark.parametrize("count", [1, 3])
def test_every_image_has_a_generator_of_its_own_or_all_have_one(count: int):
    begun, x = scheduler("euler_ancestral"), torch.zeros(2, 4, 8, 8)
    begun.set_timesteps(2)
    with pytest.raises(ValueError, match=f"^there are {count} generators for 2 images; give one per image$"):
        begun.step(x, begun.timesteps[0], x, generator=[torch.Generator()] * count)
