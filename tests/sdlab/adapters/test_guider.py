"""A modular pipeline of diffusers with a sampler and a strategy of ours draws the picture of our own loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import diffusers
import huggingface_hub.constants
import pytest
import tiny_pipelines as tiny
import torch
from references import unpack_vocabulary
from torch import Tensor

import samplers
from sdlab import guidance
from sdlab.adapters.diffusers import SamplerScheduler
from sdlab.adapters.guider import StrategyGuider
from sdlab.backends.base import Backend
from sdlab.backends.registry import open_model

PROMPTS, NEGATIVE, SEEDS, STEPS = ["a red circle", "a blue star"], "blurry", [3, 4], 4


class Sides(NamedTuple):
    """The components of a pipeline, the modular pipeline's class, and the same folder as a backend."""

    theirs: Any
    blocks: Any
    ours: Backend


@pytest.fixture(scope="module")
def offline() -> Iterator[None]:
    """Modular pipelines look for their configuration on the hub otherwise."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
        yield


@pytest.fixture(scope="module")
def sides(tmp_path_factory: pytest.TempPathFactory, offline: None) -> Callable[[str], Sides]:
    vocabulary, made = unpack_vocabulary(tmp_path_factory.mktemp("vocabulary")), dict[str, Sides]()

    def of(name: str) -> Sides:
        if name not in made:
            pipe = tiny.filled(getattr(tiny, name)(vocabulary)).to(torch.float32)
            folder = tmp_path_factory.mktemp(name)
            pipe.save_pretrained(folder)
            ours = open_model(f"diffusers:{folder}", {}, Path()).load("cpu", torch.float32, compile=False)
            blocks = {"stable_diffusion_xl": "StableDiffusionXLAutoBlocks"}.get(name, "StableDiffusion3AutoBlocks")
            made[name] = Sides(pipe, getattr(diffusers.modular_pipelines, blocks), ours)
        return made[name]

    return of


def white(ours: Backend) -> Tensor:
    return samplers.seeded(SEEDS)(torch.empty(len(SEEDS), *ours.parts.shape))  # type: ignore[attr-defined]


def modular(side: Sides, sampler: samplers.Sampler, strategy: guidance.Strategy) -> Any:
    pipe = side.blocks().init_pipeline()
    scheduler = SamplerScheduler.like(side.theirs.scheduler, sampler, "trailing")
    pipe.update_components(**{name: part for name, part in side.theirs.components.items() if name != "scheduler"})
    pipe.update_components(scheduler=scheduler, guider=StrategyGuider(strategy, scheduler))
    pipe.set_progress_bar_config(disable=True)
    return pipe


def drawn(pipe: Any, noise: Tensor) -> Tensor:
    return pipe(
        prompt=PROMPTS, negative_prompt=[NEGATIVE] * 2, latents=noise, num_inference_steps=STEPS, height=tiny.SIDE,
        width=tiny.SIDE, output="latents",
    )  # fmt: skip


def expected(ours: Backend, levels: samplers.Levels, sampler: samplers.Sampler, strategy: guidance.Strategy) -> Tensor:
    cond, uncond = ours.contexts(PROMPTS, NEGATIVE)
    sigmas = samplers.grid("trailing", steps=STEPS, levels=levels)
    return ours.sample(cond, uncond, sampler, sigmas, strategy, SEEDS)


@pytest.mark.parametrize(
    ("sampler", "strategy", "options"),
    [
        ("dpmpp_2m", "cfg", {"scale": 4.0}),
        ("heun", "apg", {"scale": 4.0, "momentum": -0.5}),  # two calls per step, and a state
        ("heun", "cfg", {"scale": 4.0, "interval": (0.5, 6.0)}),  # one prediction or two
        ("euler", "adaptive", {}),  # of which each image decides at each level
        ("euler", "none", {}),
    ],
)
def test_the_picture_is_that_of_our_loop(
    sides: Callable[[str], Sides], sampler: str, strategy: str, options: dict[str, Any]
):
    side, made = sides("stable_diffusion_xl"), guidance.make(strategy, **options)
    pipe = modular(side, samplers.make(sampler), made)
    wanted = expected(side.ours, pipe.scheduler.levels, samplers.make(sampler), made)
    for _ in range(2):  # a second run starts anew
        found = drawn(pipe, white(side.ours))
        torch.testing.assert_close(found, wanted, rtol=0, atol=2e-5 * float(wanted.abs().max()))


def test_a_flow(sides: Callable[[str], Sides]):
    """Modular pipelines start at noise of the scale t, which is 1 up to 10⁻⁴."""
    side, made = sides("stable_diffusion_3"), guidance.make("apg", scale=4.0)
    pipe = modular(side, samplers.make("dpmpp_2m"), made)
    levels = pipe.scheduler.levels
    wanted = expected(side.ours, levels, samplers.make("dpmpp_2m"), made)
    t = levels.sigma_max / (1 + levels.sigma_max)
    found = drawn(pipe, t * white(side.ours))
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-4 * float(wanted.abs().max()))


@pytest.mark.parametrize("name", ["pag", "sag", "cads", "tsg"])
def test_a_strategy_that_needs_more_says_so(sides: Callable[[str], Sides], name: str):
    scheduler = SamplerScheduler.like(sides("stable_diffusion_xl").theirs.scheduler, samplers.make("euler"), "trailing")
    with pytest.raises(ValueError, match="needs more than the conditional and the unconditional prediction; sample"):
        StrategyGuider(guidance.make(name), scheduler)


def test_a_disabled_guider_gives_the_conditional_prediction(sides: Callable[[str], Sides]):
    """As a pipeline whose network is distilled from CFG disables it."""
    scheduler = SamplerScheduler.like(sides("stable_diffusion_xl").theirs.scheduler, samplers.make("euler"), "trailing")
    guider, network = StrategyGuider(guidance.make("cfg", scale=4.0), scheduler), torch.nn.Identity()
    guider.disable()
    scheduler.set_timesteps(2)
    guider.set_state(step=0, num_inference_steps=2, timestep=scheduler.timesteps[0])
    [batch] = guider.prepare_inputs({"text": (torch.ones(2, 3), torch.zeros(2, 3))})
    assert (guider.num_conditions, guider.is_conditional) == (1, True)
    assert batch.text.eq(1).all()
    guider.prepare_models(network)
    batch.noise_pred = network(white(sides("stable_diffusion_xl").ours))
    guider.cleanup_models(network)
    torch.testing.assert_close(guider([batch]).pred, batch.noise_pred)
