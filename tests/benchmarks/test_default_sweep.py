"""Cells of the default sweep, beside a script of diffusers and torchmetrics with the same weights and the same noise.

    pytest tests/benchmarks/test_default_sweep.py -m slow --benchmark-enable -s

measures processor time on one thread, which other programs disturb little, and takes a few minutes. The contestants
take turns, cell by cell. The script does what a careful user writes: channels-last networks in inference mode, prompts
encoded once, guidance in one batch, and each network of the metrics run once per picture. It has no standard errors,
previews and thumbnails, which sdlab makes too. The reference error, which diffusers has no counterpart of, is left out
on both sides.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from time import process_time
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance

import samplers
from sdlab.metrics import clip_space, lab
from sdlab.metrics.base import Tools
from sdlab.metrics.clip_score import score
from sdlab.metrics.features import LabFeatures
from sdlab.sweep.bench import ModelBench
from sdlab.sweep.cell import Cell
from sdlab.sweep.plan import Plan, load_plan
from sdlab.weights.export import export
from sdlab.worlds.base import accuracy

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

LEAST = 1.1  # times the speed of the script
SCHEDULERS = {
    "ddim": diffusers.DDIMScheduler,
    "ddpm": diffusers.DDPMScheduler,
    "dpmpp_2m": diffusers.DPMSolverMultistepScheduler,
}


class Given(nn.Module):
    """Stands in for the network of torchmetrics: it is given features instead of pictures."""

    num_features = lab.FEATURES

    def forward(self, features: Tensor) -> Tensor:
        """The features."""
        return features


class Script:
    """A sweep with diffusers and torchmetrics."""

    def __init__(self, folder: Path, plan: Plan, bench: ModelBench) -> None:
        dtype = getattr(torch, plan.dtype)
        pipeline = diffusers.StableDiffusionPipeline.from_pretrained(folder, torch_dtype=dtype, safety_checker=None)
        self.unet = pipeline.unet.eval().to(memory_format=torch.channels_last)
        self.vae = pipeline.vae.eval().to(memory_format=torch.channels_last)
        self.config, self.dtype, self.prompts = pipeline.scheduler.config, dtype, plan.prompts
        tools = Tools((plan.opened.image_size,) * 2, bench.backend.clip, plan.metric_files, "cpu")
        self.lab, self.clip = tools.shared(lab.Lab), clip_space.load(tools)
        self.features = LabFeatures(tools)
        with torch.inference_mode():
            tokens = pipeline.tokenizer([*plan.prompts, ""], padding="max_length", truncation=True, return_tensors="pt")
            *cond, uncond = pipeline.text_encoder(tokens.input_ids)[0]
            self.cond, self.uncond = torch.stack(cond), uncond.expand(len(cond), *uncond.shape)
            self.statements = self.lab.statements(plan.prompts)
            self.texts = self.clip.texts(plan.prompts)
        self.fid = FrechetInceptionDistance(Given(), reset_real_features=False)
        self.fid.update(self.features.reference, real=True)

    @torch.inference_mode()
    def cell(self, cell: Cell, noise: Tensor) -> dict[str, float]:
        """The metrics of a cell that begins with this noise."""
        scheduler = SCHEDULERS[cell.sampler.name].from_config(self.config, timestep_spacing="trailing")
        scheduler.set_timesteps(cell.steps)
        scale, generator = cell.guidance.options.get("scale"), torch.Generator().manual_seed(0)
        x, context = noise, self.cond if scale is None else torch.cat([self.uncond, self.cond])
        for t in scheduler.timesteps:
            given = scheduler.scale_model_input(x if scale is None else torch.cat([x, x]), t)
            found = self.unet(given.to(self.dtype), t, context).sample.float()
            if scale is not None:
                without, with_prompt = found.chunk(2)
                found = without + scale * (with_prompt - without)
            options = {"generator": generator} if cell.sampler.name == "ddpm" else {}
            x = scheduler.step(found, t, x, **options).prev_sample
        pictures = self.vae.decode(x.to(self.dtype) / self.vae.config.scaling_factor).sample.float()
        return self._measured(((pictures.clamp(-1, 1) + 1) * 127.5).round() / 127.5 - 1)

    def _measured(self, pictures: Tensor) -> dict[str, float]:
        heads = self.lab.evaluator(pictures)
        self.fid.reset()
        self.fid.update((lab.raw_features(heads) - self.features._mean) / self.features._std, real=False)
        read = accuracy(self.lab.world, self.statements, self.lab.world.readings(heads))
        return {
            "fid": float(self.fid.compute()),
            "clip_score": float(score(self.clip.pictures(pictures), self.texts).mean()),
            "prompt_accuracy": sum(read) / len(read),
        }


def spent(work: Callable[[], Any]) -> tuple[float, Any]:
    """The processor time of some work, and its result."""
    start = process_time()
    found = work()
    return process_time() - start, found


@pytest.mark.benchmark(group="cells of the default sweep")
def test_cells_of_the_default_sweep(benchmark, tmp_path: Path):
    images, steps = (32, (5, 10)) if benchmark.enabled else (4, (5,))
    overrides = {"images": images, "batch": images, "metrics": ["fid", "clip_score", "prompt_accuracy"]}
    plan = load_plan("experiments/cfg_vs_steps.toml", overrides)
    plan = plan.model_copy(update={"prompts": plan.prompts[:images]})
    export("portraits", "diffusers", tmp_path / "model")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        bench = ModelBench(plan)
        script = Script(tmp_path / "model", plan, bench)
        like = torch.empty(images, *plan.opened.config.latent_shape)
        noise = samplers.seeded(range(images))(like)
        cells = [cell for cell in plan.cells if cell.steps in steps]
        script.cell(cells[0], noise)  # to warm up, as the bench did
        ours = theirs = 0.0
        for cell in cells:
            mine, result = spent(lambda cell=cell: bench.run(cell, lambda share: None, range(images)))
            other, values = spent(lambda cell=cell: script.cell(cell, noise))
            ours, theirs = ours + mine, theirs + other
            if cell.sampler.name != "ddpm":  # whose noise differs
                assert values["prompt_accuracy"] == pytest.approx(result.metrics["prompt_accuracy"], abs=0.1)
                assert values["fid"] == pytest.approx(result.metrics["fid"], rel=0.2)
    finally:
        torch.set_num_threads(threads)
    benchmark(lambda: None)
    benchmark.extra_info.update(ours=ours, script=theirs, ratio=theirs / ours)
    what = f"{len(cells)} cells of {images} images in {plan.dtype}"
    print(f"\n{what}: {ours:.1f} s, script {theirs:.1f} s, {theirs / ours:.2f} times")
    if benchmark.enabled:
        assert theirs >= LEAST * ours
