"""The shipped portraits model: it follows its captions, on held-out combinations too."""

from __future__ import annotations

from functools import partial

import pytest
import torch

import samplers
from sdlab import guidance
from sdlab.cpu.optimise import optimise_for_inference
from sdlab.pipeline import Pipeline
from sdlab.system.resources import find
from sdlab.weights.model_folder import load_part
from sdlab.weights.model_loader import load
from sdlab.worlds import portraits
from sdlab.worlds.base import Split, accuracy
from sdlab.worlds.evaluator import Evaluator


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    model = load("portraits")
    optimise_for_inference(model)
    return Pipeline(model)


@pytest.fixture(scope="module")
def reader() -> Evaluator:
    return load_part(find("data/portraits/evaluator.safetensors"), partial(Evaluator, portraits.HEADS), "cpu")


@pytest.mark.parametrize("split", ["train", "heldout"])
def test_the_pictures_show_what_their_captions_state(pipeline: Pipeline, reader: Evaluator, split: Split):
    """The model card has 99.9 % at 20 steps."""
    generator = torch.Generator().manual_seed(3)
    statements = portraits.state(portraits.sample(12, generator, split), generator, complete=True)
    choices = torch.randint(1 << 30, (12, portraits.CHOICES), generator=generator)
    captions = [portraits.word(one, choose) for one, choose in zip(statements, choices, strict=True)]
    contexts = pipeline.encode(captions), pipeline.encode([""])
    grid = samplers.grid("trailing", steps=8, levels=pipeline.levels)
    strategy = guidance.make("cfg", scale=2.0)
    latents = pipeline.sample(*contexts, samplers.make("dpmpp_2m"), grid, strategy, range(12))
    with torch.no_grad():
        readings = portraits.readings(reader(pipeline.decode(latents)))
    found = accuracy(portraits, statements, readings)
    assert sum(found) / len(found) > 0.97


def test_the_reader_reads_renders(reader: Evaluator):
    generator = torch.Generator().manual_seed(4)
    truth = portraits.sample(256, generator, "all")
    with torch.no_grad():
        readings = portraits.readings(reader(portraits.render(truth)))
    statements = portraits.state(truth, generator, complete=True)
    found = accuracy(portraits, statements, readings)
    assert sum(found) / len(found) > 0.995
