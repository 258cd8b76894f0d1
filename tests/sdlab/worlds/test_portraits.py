"""The portraits world: pictures show what captions state, captions state what is shown, and can be read back."""

from __future__ import annotations

import json
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sdlab.worlds import portraits
from sdlab.worlds.portraits import FACTS, Portraits, Statement
from sdlab.worlds.portraits.captions import alter, facts, state, word
from sdlab.worlds.portraits.palette import NAMES, PALETTE, ROLES, VARIATION, skin
from sdlab.worlds.portraits.parts import PARTS
from sdlab.worlds.portraits.world import KINDS, held_out, labels

SPLITS: tuple[portraits.Split, ...] = ("train", "heldout", "all")


def draw(seed: int, n: int = 512, split: portraits.Split = "train") -> Portraits:
    return portraits.sample(n, torch.Generator().manual_seed(seed), split)


@cache
def drawings() -> dict[str, Any]:
    path = Path(portraits.__file__).parent / "portraits.json"
    return json.loads(path.read_text(encoding="utf-8"))


def paint(person: Portraits, i: int) -> tuple[np.ndarray, np.ndarray]:
    """Portrait i painted layer by layer and pixel by pixel: the picture (16, 16, 3) in [0, 1], and for each pixel the
    index of the part whose colour is on top, −1 where it is the background, −2 where white or black covers it."""
    rgb = person.rgb[i].double().numpy()
    picture = np.tile(rgb[ROLES.index("background")], (16, 16, 1))
    top = np.full((16, 16), -1)
    for k, part in enumerate(drawings()["order"]):
        name = PARTS[part].names[person.variants[i, k]]
        for layer in drawings()["parts"][part].get(name, ()):
            alpha = layer["alpha"]
            if part == "beard" and layer["colour"] == "white":
                continue
            if part == "glasses" and name.startswith("dark") and layer["colour"] == "black":
                alpha = 0.65
            for y, row in enumerate(layer["rows"]):
                for x, bit in enumerate(f"{int(row, 16):016b}"):
                    if bit == "1":
                        plain = {"white": np.ones(3), "black": np.zeros(3)}
                        colour = plain.get(layer["colour"])
                        if colour is None:
                            colour, top[y, x] = rgb[ROLES.index(layer["colour"])], k
                        elif alpha > 0.5:
                            top[y, x] = -2
                        picture[y, x] = (1 - alpha) * picture[y, x] + alpha * colour
    if person.mirrored[i]:
        picture, top = picture[:, ::-1], top[:, ::-1]
    return picture, top


def test_rendering_is_painting_the_layers_one_by_one():
    person = draw(1, 200, "all")
    pictures = portraits.render(person)
    assert pictures.shape == (200, 3, 64, 64)
    for i in range(200):
        painted = torch.from_numpy(paint(person, i)[0].copy()).permute(2, 0, 1)
        expected = (2 * painted - 1).repeat_interleave(4, 1).repeat_interleave(4, 2)
        torch.testing.assert_close(pictures[i].double(), expected, rtol=0, atol=2e-6)


def test_a_stated_fact_can_be_seen():
    """At least so many cells of a part survive what is painted over it."""
    person = draw(2, 600, "all")
    fewest = {"hair": 6, "mouth": 2, "glasses": 10, "hat": 15, "beard": 8, "accessories": 2, "clothing": 5}
    part_of = {"hair_length": "hair", "hair_colour": "hair", "earrings": "accessories", "top": "clothing"}
    for i, statement in enumerate(state(person, torch.Generator().manual_seed(0), complete=True)):
        top = paint(person, i)[1]
        for fact, value in vars(statement).items():
            part = part_of.get(fact, fact.removesuffix("_colour"))
            if value is None or fact == "background":
                continue
            cells = int((top == list(PARTS).index(part)).sum())
            if FACTS[fact][value] == "none":
                assert cells == 0, fact
            else:
                assert cells >= fewest[part], (fact, cells)


def test_complete_captions_omit_only_hidden_facts():
    """Hair under a hat and ears under hair are all that a complete caption omits, besides colours of absent things."""
    person = draw(2, 600, "all")
    order = list(PARTS)
    for i, statement in enumerate(state(person, torch.Generator().manual_seed(0), complete=True)):
        top = paint(person, i)[1]
        missing = {name for name, value in vars(statement).items() if value is None}
        if missing & {"hair_length", "hair_colour"}:
            assert statement.hat == 1
            assert (top == order.index("hair")).sum() < 6
        if "earrings" in missing:
            columns = np.isin(top[7, [2, 13]], [order.index("hair")])
            assert columns.any()
        gone = {name for name in ("glasses", "hat") if getattr(statement, name) == 0}
        expected = {f"{name}_colour" for name in gone}
        assert missing - {"hair_length", "hair_colour", "earrings"} == expected


def test_long_hair_reaches_below_the_ears():
    rows = PARTS["hair"].own.view(-1, 16, 16)[:, 8:].sum((1, 2))
    assert rows[KINDS["hair"] == 1].min() >= 4
    assert rows[KINDS["hair"] == 0].max() <= 2


@pytest.mark.parametrize("split", SPLITS)
def test_a_portrait_depends_on_its_seed_and_place_alone(split: portraits.Split):
    few, many = draw(7, 5, split), draw(7, 300, split)
    for field in fields(Portraits):
        assert torch.equal(getattr(few, field.name), getattr(many, field.name)[:5])
    assert torch.equal(portraits.render(few), portraits.render(many)[:5])
    alone = torch.cat([portraits.render(many[i : i + 1]) for i in range(16)])
    torch.testing.assert_close(alone, portraits.render(many[:16]), rtol=0, atol=1e-6)
    assert not torch.equal(draw(8, 5, split).rgb, few.rgb)
    captions = [portraits.describe(many, torch.Generator().manual_seed(1)) for _ in range(2)]
    assert captions[0] == captions[1]


def test_train_never_shows_a_held_out_pair_and_heldout_always_does():
    for split, expected in (("train", False), ("heldout", True)):
        person = draw(5, 2048, split)
        pairs = held_out(person.colour("hair"), person.colour("clothing"))
        assert bool(pairs.any()) == expected
        assert bool(pairs.all()) == expected
    assert (labels(person)["hair_colour"] >= 0).all()  # and it can be seen
    every = held_out(torch.arange(8)[:, None], torch.arange(8)[None])
    assert every.sum(0).tolist() == every.sum(1).tolist() == [1] * 8


def test_every_value_and_every_pair_that_is_not_held_out_is_trained():
    person = draw(5, 8192)
    seen = set(zip(person.colour("hair").tolist(), person.colour("clothing").tolist(), strict=True))
    assert len(seen) == 64 - 8
    for name, values in labels(person).items():
        assert set(values.tolist()) - {-1} == set(range(len(FACTS[name]))), name
    for k, part in enumerate(PARTS.values()):
        assert len(person.variants[:, k].unique()) == len(part.names)


@pytest.mark.parametrize("complete", [False, True])
@pytest.mark.parametrize("split", SPLITS)
def test_a_caption_can_be_read_back_exactly(split: portraits.Split, complete: bool):
    generator = torch.Generator().manual_seed(0)
    statements = state(draw(1, 2048, split), generator, complete)
    choices = torch.randint(1 << 30, (2048, 24), generator=generator)
    for statement, choose in zip(statements, choices, strict=True):
        caption = word(statement, choose)
        assert portraits.parse(caption) == statement, caption


def test_describe_words_the_statements():
    person = draw(3, 64)
    for complete in (False, True):
        captions = portraits.describe(person, torch.Generator().manual_seed(4), complete)
        assert [portraits.parse(c) for c in captions] == state(person, torch.Generator().manual_seed(4), complete)


def said(**facts_: str) -> Statement:
    return Statement(**{name: FACTS[name].index(value) for name, value in facts_.items()})


@pytest.mark.parametrize(
    ("caption", "statement"),
    [
        (
            "a smiling person with long red hair, black sunglasses, a green hat and a yellow top on a light blue "
            "background",
            said(
                mouth="smiling", hair_length="long", hair_colour="red", glasses="sunglasses", glasses_colour="black",
                hat="hat", hat_colour="green", top="yellow", background="light blue",
            ),
        ),
        ("Person without a hat, glasses, or ear-rings.", said(hat="none", glasses="none", earrings="none")),
        ("a person with no hat, glasses and no beard", said(hat="none", glasses="glasses", beard="none")),
        ("red, long hair; a sad person", said(hair_length="long", hair_colour="red", mouth="sad")),
        ("an unhappy bearded person", said(mouth="sad", beard="beard")),
        ("a clean-shaven happy person", said(mouth="smiling", beard="none")),
        ("without sunglasses or a beard, wearing a white shirt", said(glasses="none", beard="none", top="white")),
        ("a hat", said(hat="hat")),
        ("a person", None),
        ("a small red circle above a blue star on a grey background", None),
    ],
)  # fmt: skip
def test_captions_by_hand(caption: str, statement: Statement | None):
    assert portraits.parse(caption) == statement


def test_captions_vary_in_wording_and_omit_facts():
    person = draw(1, 1024)
    captions = portraits.describe(person, torch.Generator().manual_seed(0))
    for phrase in ("smiling", "happy", "wearing", "without", "no hat", "clean-shaven", "a portrait of", "shirt", "top"):
        assert any(phrase in c for c in captions), phrase
    statements = [portraits.parse(c) for c in captions]
    for name in FACTS:
        assert {getattr(s, name) is None for s in statements} == {True, False}, name
    complete = portraits.describe(person, torch.Generator().manual_seed(0), complete=True)
    assert all(
        len(facts(portraits.parse(c))) == (row >= 0).sum() for c, row in zip(complete, shown(person), strict=True)
    )


def shown(person: Portraits) -> Tensor:
    return torch.stack(list(labels(person).values()), 1)


def test_near_misses_state_something_else():
    generator = torch.Generator().manual_seed(0)
    for statement in state(draw(4, 1024), generator):
        other = alter(statement, torch.randint(1 << 30, (2,), generator=generator))
        assert other != statement
        assert portraits.parse(word(other, torch.randint(1 << 30, (24,), generator=generator))) == other


def test_facts_in_words():
    statement = portraits.parse("a sad person with long red hair and no hat, wearing blue glasses and a pink top")
    assert facts(statement) == ["long hair", "red hair", "sad", "glasses", "blue glasses", "no hat", "pink top"]


def test_what_captions_leave_open_varies():
    person = draw(2, 4096)
    assert len(person.rgb[:, ROLES.index("skin")].unique(dim=0)) > 4000
    assert 0.45 < person.mirrored.float().mean() < 0.55
    for role in ROLES:
        assert len(person.rgb[:, ROLES.index(role)].unique(dim=0)) > 2000, role


def test_colours_that_touch_differ_clearly():
    tones = skin(torch.linspace(0, 1, 50))
    beards = (0.9 * PALETTE["hair"][:, None] + 0.1 * tones).flatten(0, 1)
    pairs = {
        "mouth on skin": (PALETTE["mouth"], tones),
        "mouth on beard": (PALETTE["mouth"], beards),
        "hair on skin": (PALETTE["hair"], tones),
        "glasses on skin": (PALETTE["glasses"], tones),
        "earrings on skin": (PALETTE["accessories"], tones),
        "hair on background": (PALETTE["hair"], PALETTE["background"]),
        "hat on background": (PALETTE["hat"], PALETTE["background"]),
        "top on background": (PALETTE["clothing"], PALETTE["background"]),
    }
    for name, (first, second) in pairs.items():
        assert torch.cdist(first, second).min() > 0.2, name
    for role, colours in PALETTE.items():
        apart = torch.cdist(colours, colours) + 9 * torch.eye(len(colours))
        assert apart.min() > 6 * VARIATION or role == "eyes", role
    like = {"blond": "yellow", **{c: c for c in NAMES["hair"]}}
    person = draw(3, 4096, "all")
    hair, hat = (labels_of(person, role) for role in ("hair", "hat"))
    assert not any(like[a] == b for a, b in zip(hair, hat, strict=True))


def labels_of(person: Portraits, role: str) -> list[str]:
    return [NAMES[role][k] for k in person.colour(role).tolist()]
