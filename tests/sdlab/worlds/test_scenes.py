"""The captioned world: pictures are what the scene says, captions say what the scene is, and can be read back."""

from __future__ import annotations

from dataclasses import fields, replace
from math import pi

import pytest
import torch

from sdlab.worlds import scenes
from sdlab.worlds.scenes.captions import alter, state, word
from sdlab.worlds.scenes.reader import Reading, Seen, check
from sdlab.worlds.scenes.world import BACKGROUNDS, COLOURS, RELATIONS, SHAPES, SIZES, Scenes, held_out


def draw(seed: int, n: int = 512, split: scenes.Split = "train") -> Scenes:
    return scenes.sample(n, torch.Generator().manual_seed(seed), split)


def one_object(shape: str, radius: float = 14.0, rotation: float = 0.0) -> Scenes:
    """A white-on-black-like scene with one object in the middle, for measuring."""
    world = draw(0, 1)
    fixed = {
        "background": torch.tensor([BACKGROUNDS.index("black")]),
        "count": torch.tensor([1]),
        "shape": torch.tensor([[SHAPES.index(shape)] * 2]),
        "colour": torch.tensor([[COLOURS.index("cyan")] * 2]),
        "centre": torch.full((1, 2, 2), 32.0),
        "radius": torch.full((1, 2), radius),
        "rotation": torch.full((1, 2), rotation),
        "light": torch.zeros(1, 2),
        "tone": torch.zeros(1, 3),
    }
    return replace(world, **fixed)


def cover(world: Scenes) -> torch.Tensor:
    """How much of each pixel the object covers, (64, 64), from the green channel."""
    green = scenes.render(world)[0, 1]
    low, high = green.min(), green.max()
    return (green - low) / (high - low)


def test_the_world_is_as_rich_as_promised():
    assert len(SHAPES) >= 8
    assert len(COLOURS) >= 8
    assert len(SIZES) == 2
    assert len(BACKGROUNDS) >= 5
    assert len(RELATIONS) == 4


def test_the_same_seed_gives_the_same_scenes_pictures_and_captions():
    first, second = draw(7, 64), draw(7, 64)
    for field in fields(Scenes):
        assert torch.equal(getattr(first, field.name), getattr(second, field.name))
    assert torch.equal(scenes.render(first), scenes.render(second))
    captions = [scenes.describe(world, torch.Generator().manual_seed(1)) for world in (first, second)]
    assert captions[0] == captions[1]
    assert not torch.equal(scenes.render(draw(8, 64)), scenes.render(first))


def test_a_picture_does_not_depend_on_its_batch():
    world = draw(3, 16)
    alone = torch.cat([scenes.render(world[i : i + 1]) for i in range(16)])
    torch.testing.assert_close(alone, scenes.render(world), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("shape", "area"),
    [
        ("circle", pi * 0.88**2),
        ("square", 1.56**2),
        ("ring", pi * (0.92**2 - 0.44**2)),
        ("cross", 2 * 1.9 * 0.64 - 0.64**2),
        ("triangle", 3 * 3**0.5 * 0.56**2),
    ],
)
@pytest.mark.parametrize("rotation", [0.0, 0.3])
def test_anti_aliased_area_is_that_of_the_shape(shape: str, area: float, rotation: float):
    radius = 14.0
    measured = float(cover(one_object(shape, radius, rotation)).sum())
    assert measured == pytest.approx(area * radius**2, rel=0.01)


@pytest.mark.parametrize("shape", SHAPES)
def test_an_edge_is_one_pixel_soft(shape: str):
    covered = cover(one_object(shape, rotation=0.2))
    soft = ((covered > 0.01) & (covered < 0.99)).sum()
    edge = (covered.diff(dim=0).abs().sum() + covered.diff(dim=1).abs().sum()) / 2
    assert 0.3 * edge < soft < 3 * edge


def test_train_never_shows_a_held_out_pair_and_heldout_always_does():
    for split, expected in (("train", False), ("heldout", True)):
        world = draw(5, 2048, split)
        pairs = held_out(world.shape, world.colour)
        pairs[:, 1] &= world.count == 2
        assert bool(pairs.any(1).any()) == expected
        assert bool(pairs.any(1).all()) == expected
    assert held_out(torch.arange(8)[:, None], torch.arange(8)[None, :]).sum() == 8


def test_every_pair_that_is_not_held_out_is_trained():
    world = draw(5, 4096)
    seen = set(zip(world.shape[:, 0].tolist(), world.colour[:, 0].tolist(), strict=True))
    assert len(seen) == 64 - 8


@pytest.mark.parametrize("split", ["train", "heldout"])
def test_objects_satisfy_their_relation_and_do_not_touch_or_leave_the_picture(split: scenes.Split):
    world = draw(11, 4096, split)
    two = world[world.count == 2]
    step = two.centre[:, 1] - two.centre[:, 0]  # from the first to the second
    along = torch.where(two.relation < 2, step[:, 0], step[:, 1])
    across = torch.where(two.relation < 2, step[:, 1], step[:, 0])
    assert torch.equal(along > 0, two.relation % 2 == 0)
    assert (along.abs() > across.abs()).all()
    assert (step.norm(dim=1) > two.radius.sum(1)).all()
    for edge in (two.centre - two.radius[..., None], 64 - two.centre - two.radius[..., None]):
        assert edge.min() > 0


def test_what_captions_leave_open_varies():
    world = draw(2, 4096)
    for name in ("hue", "rotation", "radius", "light", "tone", "centre"):
        assert len(getattr(world, name)[..., 0].flatten().unique()) > 2000, name


def test_a_caption_can_be_read_back_exactly():
    generator = torch.Generator().manual_seed(0)
    for split in ("train", "heldout"):
        world = draw(1, 2048, split)
        statements = state(world, generator)
        choices = torch.randint(1 << 30, (2048, 8), generator=generator)
        for statement, choose in zip(statements, choices, strict=True):
            assert scenes.parse(word(statement, choose)) == statement


def test_captions_vary_in_wording_and_omit_facts():
    world = draw(1, 1024)
    captions = scenes.describe(world, torch.Generator().manual_seed(0))
    statements = [scenes.parse(c) for c in captions]
    for phrase in ("small", "tiny", "little", "large", "big", "to the left of", " left of", "over", "a picture of"):
        assert any(phrase in c for c in captions), phrase
    assert {s.background is None for s in statements} == {True, False}
    assert {t.size is None for s in statements for t in s.things} == {True, False}
    full = scenes.describe(world, torch.Generator().manual_seed(0), complete=True)
    assert all(t.size is not None for c in full for t in scenes.parse(c).things)


def test_a_prompt_from_another_world_states_nothing():
    assert scenes.parse("a cat stretching on the floor, highly detailed") is None


def test_near_misses_state_something_else_of_the_same_form():
    generator = torch.Generator().manual_seed(0)
    for statement in state(draw(4, 1024), generator):
        other = alter(statement, torch.randint(1 << 30, (2,), generator=generator))
        assert other != statement
        assert len(other.things) == len(statement.things)
        assert (other.relation is None) == (statement.relation is None)


def seen(shape: str, colour: str, size: str, x: float, y: float) -> Seen:
    return Seen(scenes.Thing(SHAPES.index(shape), COLOURS.index(colour), SIZES.index(size)), x, y)


CAPTION = "a small red circle left of a large blue star on a brown background"
BROWN = BACKGROUNDS.index("brown")
RIGHT = (seen("circle", "red", "small", 16, 30), seen("star", "blue", "large", 48, 34))


@pytest.mark.parametrize(
    ("objects", "background", "wrong"),
    [
        (RIGHT, BROWN, 0),
        (RIGHT[::-1], BROWN, 0),  # the order in which the reader finds them does not matter
        (RIGHT, BROWN + 1, 1),
        ((replace(RIGHT[0], x=60.0), RIGHT[1]), BROWN, 1),  # now right of the star
        ((replace(RIGHT[0], x=44.0, y=2.0), RIGHT[1]), BROWN, 1),  # more above than left
        ((*RIGHT, seen("moon", "pink", "small", 30, 8)), BROWN, 1),  # one too many
        (RIGHT[:1], BROWN, 5),  # no star: count, size, colour, shape, relation
        ((), BROWN, 8),
    ],
)
def test_check_counts_mistakes(objects: tuple[Seen, ...], background: int, wrong: int):
    facts = check(scenes.parse(CAPTION), Reading(objects, background))
    assert len(facts) == 9
    assert facts.count(False) == wrong
