"""Family parity: with the same noise, our samplers give the picture of a pipeline with its own scheduler.

The grid `trailing` has the timesteps of `timestep_spacing="trailing"`. The networks are float64 on both sides. The
state is float32, on our side in the σ clock, where x at the highest level is rounded to 6e-8 σ.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import diffusers
import pytest
import tiny_pipelines as tiny
import torch
from torch import Tensor

import samplers
from sdlab import guidance
from sdlab.backends.base import Backend, Opened
from sdlab.backends.registry import open_model

PROMPTS, NEGATIVE, SEEDS, STEPS = ["a red circle", "ein Hund im Park, 4K"], "blurry", [3, 4], 5
pytestmark = pytest.mark.slow
SCALE = 4.0
ROUNDING = 2e-6  # of the final latents, and of σ at the highest level

VP: Mapping[str, Callable[..., Any]] = {
    "euler": diffusers.EulerDiscreteScheduler,
    "dpmpp_2m": diffusers.DPMSolverMultistepScheduler,
    "heun": diffusers.HeunDiscreteScheduler,
}


class Case(NamedTuple):
    """A pipeline, and what is passed to it and to the scheduler."""

    make: Callable[..., Any]
    settings: Mapping[str, Any] = {}
    options: Mapping[str, Any] = {}  # of our model


LINEAR = {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02, "clip_sample": False}
CASES = {
    "sd": Case(tiny.stable_diffusion),
    "sd v": Case(tiny.stable_diffusion, {"prediction_type": "v_prediction"}),
    "sd zero terminal SNR": Case(
        tiny.stable_diffusion, {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}
    ),
    "sd x0": Case(tiny.stable_diffusion, {"prediction_type": "sample"}),
    "sdxl": Case(tiny.stable_diffusion_xl),
    "pixels": Case(lambda _, **settings: tiny.unet2d(**settings), LINEAR),
    "classes": Case(lambda _, **settings: tiny.unet2d(4, **settings), LINEAR),
}
CASES |= {
    "pixart alpha": Case(lambda _, **settings: tiny.pixart(False, **settings)),
    "pixart sigma": Case(lambda _, **settings: tiny.pixart(True, **settings)),
    "pixart with sizes": Case(lambda _, **settings: tiny.pixart(False, 128, **settings), options={"size": 32}),
    "sd3": Case(tiny.stable_diffusion_3, {"shift": 3.0}),
    "sd3 without t5": Case(partial(tiny.stable_diffusion_3, with_t5=False)),
    "flux": Case(tiny.flux, {"use_dynamic_shifting": True}, {"size": 32, "guidance_input": 2.5}),
    "flux undistilled": Case(partial(tiny.flux, guidance_embeds=False), options={"size": 32}),
}
TEXT = [name for name in CASES if name.startswith("sd") and "sd3" not in name]
PIXARTS = [name for name in CASES if name.startswith("pixart")]
FLOWS = [name for name in CASES if name.startswith(("sd3", "flux"))]


class Sides(NamedTuple):
    """A pipeline of diffusers, and the same folder as a backend."""

    theirs: Any
    opened: Opened
    ours: Backend


@pytest.fixture(scope="module")
def sides(clip_bpe: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Sides]:
    """Both sides of a case, by name."""

    @lru_cache
    def made(case: str) -> Sides:
        folder = tmp_path_factory.mktemp("pipeline")
        pipe = tiny.filled(CASES[case].make(clip_bpe, **CASES[case].settings))
        pipe.save_pretrained(folder)
        opened = open_model(f"diffusers:{folder}", CASES[case].options, Path())
        assert opened.check("cpu", compile=False) == []
        return Sides(pipe, opened, opened.load("cpu", torch.float64, compile=False))

    return made


def white(ours: Backend) -> Tensor:
    """The noise of our seeds."""
    return samplers.seeded(SEEDS)(torch.empty(len(SEEDS), *ours.parts.shape))  # type: ignore[attr-defined]


def drawn(ours: Backend, sampler: samplers.Sampler, strategy: guidance.Strategy) -> Tensor:
    """Our samples of the prompts."""
    cond, uncond = ours.contexts(PROMPTS, NEGATIVE)
    sigmas = samplers.grid("trailing", steps=STEPS, levels=ours.levels)
    return ours.sample(cond, uncond, sampler, sigmas, strategy, SEEDS)


def same(ours: Tensor, theirs: Tensor, top: float) -> None:
    """Check that both are equal up to rounding. `top` is the highest σ."""
    torch.testing.assert_close(ours.double(), theirs, rtol=0, atol=ROUNDING * (top + float(theirs.abs().max())))


@pytest.mark.parametrize(
    ("case", "sampler"),
    [
        one for one in product([*TEXT, *PIXARTS], VP) if one != ("sd zero terminal SNR", "heun")
    ],  # HeunDiscreteScheduler has no such
)
def test_a_pipeline_with_its_own_scheduler(sides: Callable[[str], Sides], case: str, sampler: str):
    theirs, _, ours = sides(case)
    spacing = {"timestep_spacing": "trailing", "final_sigmas_type": "zero"}
    theirs.scheduler = VP[sampler].from_config(theirs.scheduler.config, **spacing)  # type: ignore[attr-defined]
    noise, top = white(ours).double(), ours.levels.sigma_max
    if sampler == "dpmpp_2m":  # its state has the scale of the network's input, and starts at σ ε there
        noise = noise * top / (1 + top**2) ** 0.5
    call = {"num_inference_steps": STEPS, "guidance_scale": SCALE, "latents": noise}
    prompts = {"prompt": PROMPTS, "negative_prompt": [NEGATIVE] * 2}
    if case in PIXARTS:
        prompts |= {"use_resolution_binning": False, "clean_caption": False, "height": tiny.SIDE, "width": tiny.SIDE}
    latents = theirs(**prompts, **call, output_type="latent").images
    found = drawn(ours, samplers.make(sampler), guidance.make("cfg", scale=SCALE))
    same(found, latents, top)
    pictures = theirs(**prompts, **call, output_type="pt").images * 2 - 1
    decoded = ours.decode(found)
    assert decoded is not None
    assert (decoded - pictures).abs().max() < 1.01 / 255 + 1e-3  # ours has the 256 values of a PNG


class Pinned(diffusers.DPMSolverMultistepScheduler):
    """DPM++ 2M of a flow at the times that a pipeline passes to it, in place of those that it computes."""

    def set_timesteps(
        self, num_inference_steps: int | None = None, device: Any = None, sigmas: Any = None, mu: Any = None
    ) -> None:
        super().set_timesteps(STEPS, device)
        times = torch.tensor(self.config.times)
        self.timesteps, self.sigmas = 1000 * times, torch.cat([times, torch.zeros(1)])


class PinnedHeun(diffusers.FlowMatchHeunDiscreteScheduler):
    """Heun of a flow at the times that a pipeline passes to it. It has each level but the first and the last twice."""

    def set_timesteps(
        self, num_inference_steps: int | None = None, device: Any = None, sigmas: Any = None, mu: Any = None
    ) -> None:
        super().set_timesteps(STEPS, device)
        times = torch.tensor(self.config.times)
        self.timesteps = 1000 * torch.cat([times[:1], times[1:].repeat_interleave(2)])
        self.sigmas = torch.cat([self.timesteps / 1000, torch.zeros(1)])


FLOW_SCHEDULERS: Mapping[str, Callable[[], Any]] = {
    "heun": PinnedHeun,
    "dpmpp_2m": lambda: Pinned(use_flow_sigmas=True, prediction_type="flow_prediction", final_sigmas_type="zero"),
}


@pytest.mark.parametrize("sampler", ["euler", *FLOW_SCHEDULERS])
@pytest.mark.parametrize("case", FLOWS)
def test_a_flow_pipeline_with_its_own_scheduler(sides: Callable[[str], Sides], case: str, sampler: str):
    """The Euler scheduler gets the times before its shift, the others those after it. Heun steps in the flow's time.

    x at the highest level is t ε. A pipeline takes t = 1, so it is given the product. Timesteps are float32 on both
    sides, so the networks differ by 6e-8 · 1000.
    """
    theirs, opened, ours = sides(case)
    sigmas = samplers.grid("trailing", steps=STEPS, levels=ours.levels)
    times, levels, size = [sigma / (1 + sigma) for sigma in sigmas[:-1]], opened.levels, tiny.SIDE
    assert isinstance(levels, samplers.TimedLevels)
    prompts = {"prompt": PROMPTS, "negative_prompt": [NEGATIVE] * 2}
    call: dict[str, Any] = {"num_inference_steps": STEPS, "output_type": "latent", "height": size, "width": size}
    original = theirs.scheduler
    if sampler == "euler":
        call["sigmas"] = [levels.t(sigma) / 1000 for sigma in sigmas[:-1]]
    else:
        theirs.scheduler = FLOW_SCHEDULERS[sampler]()
        theirs.scheduler.register_to_config(times=times)
    noise = white(ours).double() * times[0]
    if "flux" in case:
        packed = theirs._pack_latents(noise, *noise.shape)
        found = theirs(**prompts, **call, true_cfg_scale=SCALE, guidance_scale=2.5, latents=packed).images
        latents = theirs._unpack_latents(found, size, size, theirs.vae_scale_factor)
    else:
        latents = theirs(**prompts, **call, guidance_scale=SCALE, latents=noise).images
    theirs.scheduler = original
    made = samplers.make("heun", clock="flow") if sampler == "heun" else samplers.make(sampler)
    same(drawn(ours, made, guidance.make("cfg", scale=SCALE)), latents, 60.0)


@pytest.mark.parametrize("case", ["sd3", "flux"])
def test_the_decoder_of_a_flow_pipeline(sides: Callable[[str], Sides], case: str):
    """With the scale and the shift of the VAE, and the encoder is the inverse in scale and shift."""
    theirs, _, ours = sides(case)
    latents = white(ours).double()
    config = theirs.vae.config
    with torch.no_grad():
        expected = theirs.vae.decode(latents / config.scaling_factor + config.shift_factor).sample
        decoded = ours.decode(latents)
        picture = expected.clamp(-1, 1)
        means = theirs.vae.encode(picture).latent_dist.mode()
    assert decoded is not None
    assert (decoded - picture).abs().max() < 1.01 / 255
    torch.testing.assert_close(
        ours.encode_image(picture.float()).double(), (means - config.shift_factor) * config.scaling_factor,
        rtol=0, atol=1e-5,
    )  # fmt: skip


@pytest.mark.parametrize("sampler", VP)
@pytest.mark.parametrize("case", ["pixels", "classes"])
def test_a_network_of_pixels_with_a_scheduler(sides: Callable[[str], Sides], case: str, sampler: str):
    """Their pipelines of pixels take no noise, so their scheduler is stepped here."""
    theirs, _, ours = sides(case)
    made = VP[sampler].from_config(theirs.scheduler.config, timestep_spacing="trailing", final_sigmas_type="zero")  # type: ignore[attr-defined]
    made.set_timesteps(STEPS)
    labels = None if case == "pixels" else torch.tensor([0, 1])
    x, top = white(ours).double(), ours.levels.sigma_max
    x = x * (top / (1 + top**2) ** 0.5 if sampler == "dpmpp_2m" else top)
    for t in made.timesteps:
        with torch.no_grad():
            predicted = theirs.unet(made.scale_model_input(x, t), t, class_labels=labels).sample
        x = made.step(predicted, t, x).prev_sample.double()
    cond, uncond = ours.contexts([], "")
    cond = cond[:2] if case == "classes" else cond.expand(2)
    sigmas = samplers.grid("trailing", steps=STEPS, levels=ours.levels)
    found = ours.sample(cond, uncond, samplers.make(sampler), sigmas, guidance.make("none"), SEEDS)
    same(found, x, top)
