"""A loaded pipeline as a model: samplers that no scheduler can run draw the picture of the folder in a sweep."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny_pipelines as tiny
import torch
from references import unpack_vocabulary

import samplers
from sdlab import guidance
from sdlab.adapters.diffusers import SamplerScheduler
from sdlab.adapters.pipeline import of_pipeline
from sdlab.backends.registry import open_model
from sdlab.system.errors import UsageError


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unpack_vocabulary(tmp_path_factory.mktemp("vocabulary"))


@pytest.mark.parametrize("family", ["stable_diffusion_xl", "flux"])
def test_the_picture_is_that_of_the_folder(tmp_path: Path, vocabulary: Path, family: str):
    """With an adaptive sampler, and one that needs the unconditional prediction."""
    pipe = tiny.filled(getattr(tiny, family)(vocabulary)).to(torch.float32)
    pipe.save_pretrained(tmp_path)
    folder = open_model(f"diffusers:{tmp_path}", {"size": 32}, Path()).load("cpu", torch.float32, compile=False)
    # A scheduler of ours does not hide the process of the pipeline.
    pipe.scheduler = SamplerScheduler.like(pipe.scheduler, samplers.make("euler"), "trailing")
    model = of_pipeline(pipe, size=(32, 32))
    for sampler in (samplers.make("dpm_adaptive", rtol=0.5, atol=1.0), samplers.make("ddim_cfg_pp")):
        drawn = []
        for one in (folder, model):
            cond, uncond = one.contexts(["a red circle"], "blurry")
            sigmas = samplers.grid("trailing", steps=3, levels=one.levels)
            strategy = guidance.make("cfg", scale=1.5)
            drawn.append(one.sample(cond, uncond, sampler, sigmas, strategy, [7]))
        assert drawn[0].equal(drawn[1])
    assert model.decode(drawn[1]).shape == (1, 3, 32, 32)


def test_what_does_not_fit_says_so(vocabulary: Path):
    pipe: Any = tiny.stable_diffusion(vocabulary)
    with pytest.raises(UsageError, match=r"^size: must be a multiple of 2, got 33; the nearest is 32$"):
        of_pipeline(pipe, size=(33, 33))
    with pytest.raises(UsageError, match=r"^guidance_input: is not an option of this model, which takes size$"):
        of_pipeline(pipe, guidance_input=2.0)
    other = type("KandinskyPipeline", (), {"components": {}, "config": {}})()
    with pytest.raises(UsageError, match=r"^KandinskyPipeline: 'KandinskyPipeline' is not supported"):
        of_pipeline(other)
