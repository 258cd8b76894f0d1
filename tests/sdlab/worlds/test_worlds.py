"""The interface of worlds, tested on each of them."""

from __future__ import annotations

from functools import partial

import pytest
import torch
import torch.nn.functional as F

from sdlab.sweep.prompts import PROMPT_SETS, SETS, picture_set, prompt_set
from sdlab.train.world_pictures import WorldPictures
from sdlab.worlds.base import accuracy
from sdlab.worlds.evaluator import Evaluator
from sdlab.worlds.registry import WORLDS, AnyWorld, open_world
from sdlab.worlds.second_evaluator import SecondEvaluator


@pytest.fixture(params=WORLDS)
def world(request: pytest.FixtureRequest) -> AnyWorld:
    return open_world(request.param)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_pictures_have_the_size_of_the_world(world: AnyWorld):
    truth = world.sample(6, generator())
    pictures = world.render(truth)
    assert pictures.shape == (6, 3, *world.SIZE)
    assert pictures.dtype == torch.float32
    assert pictures.min() >= -1
    assert pictures.max() <= 1
    assert world.render(truth[torch.tensor([4, 1])]).equal(pictures[[4, 1]])


def test_describe_states_exactly_the_statement(world: AnyWorld):
    truth = world.sample(200, generator())
    for complete in (False, True):
        stated = world.state(truth, generator(1), complete)
        assert [world.parse(c) for c in world.describe(truth, generator(1), complete)] == stated
        facts = sum(len(world.facts(s)) for s in stated)
        assert facts > 0
    everything = [len(world.facts(s)) for s in world.state(truth, generator(1), complete=True)]
    some = [len(world.facts(s)) for s in world.state(truth, generator(1))]
    assert all(a <= b for a, b in zip(some, everything, strict=True))
    assert sum(some) < 0.95 * sum(everything)
    assert min(some) >= 1


def test_the_example_states_something_in_this_world_alone(world: AnyWorld):
    assert world.parse(world.EXAMPLE) is not None
    assert [name for name in WORLDS if open_world(name).parse(world.EXAMPLE) is not None] == [
        name for name in WORLDS if open_world(name) is world
    ]


def test_training_states_trained_combinations_and_heldout_states_others(world: AnyWorld):
    for split, expected in (("train", True), ("heldout", False)):
        stated = world.state(world.sample(500, generator(), split), generator(), complete=True)
        assert {world.trained(s) for s in stated} == {expected}


@pytest.mark.parametrize("network", [Evaluator, SecondEvaluator])
def test_a_reader_has_the_heads_of_the_world(world: AnyWorld, network: type[Evaluator | SecondEvaluator]):
    evaluator, truth = network(world.HEADS), world.sample(5, generator())
    outputs = evaluator(world.render(truth))
    assert {*outputs} - {"features"} == {*world.HEADS.picture, *world.HEADS.cells}
    losses = world.losses(outputs, truth)
    assert set(losses) == {*world.HEADS.picture, *world.HEADS.cells}
    sum(losses.values()).backward()
    assert all(bool(p.grad.any()) for p in evaluator.parameters() if network is Evaluator or p.ndim > 1)
    stated = world.state(truth, generator())
    readings = world.readings(outputs)
    for statement, reading, share in zip(stated, readings, accuracy(world, stated, readings), strict=True):
        facts = world.check(statement, reading)
        assert len(facts) == len(world.facts(statement))
        assert share == sum(facts) / len(facts)


def test_marks_are_of_the_picture_alone(world: AnyWorld):
    truth = world.sample(50, generator())
    marks = world.marks(truth)
    assert marks.shape == (50, world.MARKS)
    assert set(marks.unique().tolist()) == {0.0, 1.0}
    assert world.marks(truth[10:20]).equal(marks[10:20])


def test_captions_cover_the_marks_of_what_they_state(world: AnyWorld):
    truth = world.sample(200, generator(), "all")
    whole = world.stated(world.state(truth, generator(), complete=True))
    part = world.stated(world.state(truth, generator()))
    assert whole.shape == part.shape == (200, world.MARKS)
    assert (whole.dtype, part.dtype) == (torch.bool, torch.bool)
    assert not (part & ~whole).any()
    assert part.any(0).all()
    assert not part.all(0).any()


def test_a_scene_covers_shapes_if_it_states_them_of_all_objects():
    from sdlab.worlds.scenes.captions import Statement, Thing

    two = (Thing(shape=1, colour=2, size=0), Thing(shape=3, colour=4, size=1))
    without = Statement((two[0], Thing(colour=4, size=1)), relation=0)
    covered = open_world("scenes").stated([Statement(two), without]).view(2, 4, 18)
    assert covered[0].all()
    assert covered[1, :, :8].all()
    assert not covered[1, :, 8:16].any()
    assert covered[1, :, 16:].all()


def test_a_portrait_covers_the_marks_of_its_facts():
    from sdlab.worlds.portraits import Statement
    from sdlab.worlds.portraits.world import FACTS

    covered = open_world("portraits").stated([Statement(hat=0, top=2)])[0]
    parts = dict(zip(FACTS, covered.split([*map(len, FACTS.values())]), strict=True))
    assert {fact for fact, part in parts.items() if part.any()} == {"hat", "top"}
    assert int(covered.sum()) == len(FACTS["hat"]) + len(FACTS["top"])


def test_marks_of_portraits_are_their_shown_facts():
    world = open_world("portraits")
    truth = world.sample(200, generator(), "all")
    stated = world.state(truth, generator(), complete=True)
    assert world.marks(truth).sum(1).tolist() == [len(world.facts(s)) for s in stated]


def test_a_perfect_reader_of_portraits_finds_every_stated_fact():
    world = open_world("portraits")
    from sdlab.worlds.portraits.world import labels

    truth = world.sample(300, generator(), "all")
    outputs = {
        name: F.one_hot(value % world.HEADS.picture[name], world.HEADS.picture[name]).float()
        for name, value in labels(truth).items()
    }
    for complete in (False, True):
        stated = world.state(truth, generator(), complete)
        assert accuracy(world, stated, world.readings(outputs)) == [1.0] * 300
        others = [world.alter(s, torch.randint(1 << 30, (2,), generator=generator(3))) for s in stated]
        assert max(accuracy(world, others, world.readings(outputs))) < 1


def test_every_world_has_its_prompt_sets():
    assert set(PROMPT_SETS) == {f"{world}{kind}" for world in WORLDS for kind in ("", "_heldout", "_altered")}
    for name in PROMPT_SETS:
        world = open_world(name.split("_")[0])
        prompts = prompt_set(name, 12)
        assert prompt_set(name, 5) == prompts[:5]
        assert all(world.parse(prompt) is not None for prompt in prompts)
    for name in SETS:
        assert picture_set(name, 3).shape == (3, 3, *open_world(name.split("_")[0]).SIZE)
    for world in WORLDS:
        before, after = prompt_set(world, 12), prompt_set(f"{world}_altered", 12)
        parse = open_world(world).parse
        assert all(parse(a) != parse(b) for a, b in zip(before, after, strict=True))


def test_training_pictures_follow_the_stream_of_the_world(world: AnyWorld):
    """The same stream as sampling, rendering and describing by hand; a part of a batch is those pictures."""
    truth, chosen = world.sample(20, generator(5), "train"), torch.tensor([3, 17, 3])
    for complete in (False, True):
        batch = WorldPictures(world, "train", complete).batch(20, generator(5))
        assert len(batch) == 20
        assert batch.images().equal(world.render(truth))
        assert batch[chosen].images().equal(world.render(truth)[chosen])
        assert batch[2:9].captions(generator(6)) == world.describe(truth[2:9], generator(6), complete)


def test_sampling_can_be_repeated(world: AnyWorld):
    sample = partial(world.sample, 9)
    first, second, third = (vars(sample(generator(seed))) for seed in (1, 1, 2))
    assert all(first[name].equal(second[name]) for name in first)
    assert not all(first[name].equal(third[name]) for name in first)
