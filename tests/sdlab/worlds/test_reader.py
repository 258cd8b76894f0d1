"""The reader of the scenes world, on renders whose content is known."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from sdlab.metrics.files import MetricFiles
from sdlab.metrics.lab import evaluator_file
from sdlab.train.stages.disturbances import weather
from sdlab.weights.model_folder import load_part
from sdlab.worlds import scenes
from sdlab.worlds.evaluator import Evaluator
from sdlab.worlds.scenes.captions import alter, state
from sdlab.worlds.scenes.reader import check, readings


@pytest.fixture(scope="module")
def evaluator() -> Evaluator:
    return load_part(evaluator_file(MetricFiles()), partial(Evaluator, scenes.HEADS))


@pytest.mark.parametrize("spoil", [False, True], ids=["clean", "blurred and noised"])
def test_the_reader_is_right_on_unseen_renders(evaluator: Evaluator, spoil: bool):
    generator = torch.Generator().manual_seed(987_654)
    world = scenes.sample(256, generator, "all")
    images = scenes.render(world)
    found = readings(evaluator(weather(images, generator) if spoil else images))
    statements = state(world, generator, complete=True)
    facts = [fact for s, r in zip(statements, found, strict=True) for fact in check(s, r)]
    assert sum(facts) / len(facts) >= 0.99


def test_the_reader_tells_pictures_from_near_misses(evaluator: Evaluator):
    generator = torch.Generator().manual_seed(3)
    world = scenes.sample(256, generator)
    statements = [alter(s, torch.randint(1 << 30, (2,), generator=generator)) for s in state(world, generator, True)]
    found = readings(evaluator(scenes.render(world)))
    wrong = [not all(check(s, r)) for s, r in zip(statements, found, strict=True)]
    # Two things of one kind in exchanged places state the same picture, which is rare.
    assert sum(wrong) / len(wrong) > 0.97
