"""Reader disagreement: none on renders, and the share of stated facts that one reader finds and the other does not."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor

from sdlab.metrics import METRICS
from sdlab.metrics.base import Batch, Run, Tools
from sdlab.metrics.files import MetricFiles
from sdlab.metrics.meters import Meters
from sdlab.weights.model_folder import load_part
from sdlab.worlds.evaluator import Evaluator
from sdlab.worlds.registry import WORLDS, open_world
from sdlab.worlds.second_evaluator import SecondEvaluator

N = 48


def captioned(name: str) -> tuple[Tensor, list[str]]:
    world, generator = open_world(name), torch.Generator().manual_seed(5)
    truth = world.sample(N, generator, "all")
    statements = world.state(truth, generator, complete=True)
    choices = torch.randint(1 << 30, (N, world.CHOICES), generator=generator)
    return world.render(truth), [world.word(s, choice) for s, choice in zip(statements, choices, strict=True)]


def disagreement(name: str, pictures: Tensor, prompts: list[str]) -> Tensor:
    meters = Meters([METRICS["reader_disagreement"]], Tools(files=MetricFiles(world=name)))
    measurement = meters.start(Run(len(pictures)))
    measurement.update(Batch(range(len(pictures)), pictures, prompts))
    per_image = measurement.results()["reader_disagreement"].per_image
    assert per_image is not None
    return per_image


@pytest.mark.parametrize("name", list(WORLDS))
def test_the_readers_agree_on_renders(name: str):
    assert float(disagreement(name, *captioned(name)).mean()) < 0.002


@pytest.mark.parametrize("name", list(WORLDS))
def test_it_is_the_share_of_the_stated_facts_that_only_one_reader_finds(name: str):
    pictures, prompts = captioned(name)
    unclear = 0.35 * pictures + 0.65 * torch.randn(pictures.shape, generator=torch.Generator().manual_seed(1))
    world, folder = open_world(name), Path(f"data/{name}")
    first = load_part(folder / "evaluator.safetensors", partial(Evaluator, world.HEADS), "cpu")
    second = load_part(folder / "second_evaluator.safetensors", partial(SecondEvaluator, world.HEADS), "cpu")
    with torch.no_grad():
        found = [world.readings(reader(unclear)) for reader in (first, second)]
    expected = []
    for i, prompt in enumerate(prompts):
        statement = world.parse(prompt)
        one, other = (torch.tensor(world.check(statement, readings[i])) for readings in found)
        expected.append(float((one ^ other).float().mean()))
    measured = disagreement(name, unclear, prompts)
    assert float(measured.mean()) > 0.05
    torch.testing.assert_close(measured, torch.tensor(expected, dtype=measured.dtype))
