"""Tests of the probes of the text stage."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sdlab.model.tokenizer import Tokenizer
from sdlab.train.stages.text_probes import Encoded, SceneProbes
from sdlab.weights.model_folder import read_config
from sdlab.weights.vocabulary import tokenizer_in
from sdlab.worlds.registry import open_world
from sdlab.worlds.scenes.captions import CHOICES, Statement, Thing, state, word
from sdlab.worlds.scenes.world import Scenes, sample

WIDTH, N = 16, 40
FOLDER = Path("data/scenes")


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return tokenizer_in(FOLDER, read_config(FOLDER).text)


@pytest.fixture(scope="module")
def probes(tokenizer: Tokenizer) -> SceneProbes:
    torch.manual_seed(0)
    return SceneProbes(WIDTH, open_world("scenes"), tokenizer)


@pytest.fixture(scope="module")
def scenes() -> Scenes:
    return sample(N, torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def complete(scenes: Scenes) -> list[Statement]:
    return state(scenes, torch.Generator().manual_seed(0), complete=True)


def encoded(tokenizer: Tokenizer, statements: list[Statement]) -> Encoded:
    """Captions of the statements, with random states."""
    generator = torch.Generator().manual_seed(1)
    choices = torch.randint(1 << 30, (N, CHOICES), generator=generator)
    tokens = tokenizer([word(s, c) for s, c in zip(statements, choices, strict=True)])
    states = torch.randn(*tokens.shape, WIDTH, generator=generator)
    return Encoded(tokens, states, states[:, -1], statements)


def without(statement: Statement, kind: str) -> Statement:
    return replace(statement, things=tuple(replace(thing, **{kind: None}) for thing in statement.things))


@pytest.mark.parametrize(("kind", "place"), [("colour", slice(0, 8)), ("shape", slice(8, 16)), ("size", slice(16, 18))])
def test_a_fact_that_no_caption_states_is_not_learnt(
    probes: SceneProbes, tokenizer: Tokenizer, complete: list[Statement], scenes: Scenes, kind: str, place: slice
):
    """The gradients of its probes are zero, and those of all other probes are not."""
    captions = encoded(tokenizer, [without(statement, kind) for statement in complete])
    _, loss = probes.losses(captions, scenes)["facts"]
    (gradient,) = torch.autograd.grad(loss, [probes.where.weight])
    learnt = gradient.view(4, 18, WIDTH).abs().sum(-1) > 0
    expected = torch.ones(4, 18, dtype=torch.bool)
    expected[:, place] = False
    assert learnt.equal(expected)


def test_complete_captions_teach_the_mean_over_all_marks(
    probes: SceneProbes, tokenizer: Tokenizer, complete: list[Statement], scenes: Scenes
):
    captions = encoded(tokenizer, complete)
    _, found = probes.losses(captions, scenes)["facts"]
    ends = captions.states[torch.arange(N), captions.tokens.argmax(1)]
    marks, says = open_world("scenes").marks(scenes), probes.where(ends).sigmoid()
    torch.testing.assert_close(found, -(marks * says.log() + (1 - marks) * (1 - says).log()).mean())


def test_captions_that_state_nothing_of_a_probe_have_a_loss_of_zero(
    probes: SceneProbes, tokenizer: Tokenizer, scenes: Scenes
):
    silent = encoded(tokenizer, [Statement((Thing(),) * int(count)) for count in scenes.count])
    found = probes.losses(silent, scenes)
    assert [name for name, (_, loss) in found.items() if loss.item() == 0] == ["facts", "half", "background"]


def test_each_token_after_the_end_encodes_one_half(
    probes: SceneProbes, tokenizer: Tokenizer, complete: list[Statement], scenes: Scenes
):
    """Left, right, top, bottom, and again from the left. The mean is over all such tokens of all captions."""
    captions = encoded(tokenizer, complete)
    halves = open_world("scenes").marks(scenes).view(N, 4, 18)
    errors = []
    for row, tokens, states in zip(halves, captions.tokens.tolist(), captions.states, strict=True):
        for offset, state_after in enumerate(states[tokens.index(tokenizer.end) + 1 :]):
            says = probes.in_half(state_after).sigmoid()
            errors.append(-(row[offset % 4] * says.log() + (1 - row[offset % 4]) * (1 - says).log()).mean())
    assert len(errors) > 4 * N
    _, found = probes.losses(captions, scenes)["half"]
    torch.testing.assert_close(found, torch.stack(errors).mean())
