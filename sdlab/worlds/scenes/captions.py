"""Captions of scenes, and their parser.

Captions vary in wording and may omit attributes. `parse` recovers exactly the facts that a caption states, so a picture
can be checked against any caption, not only those from `describe`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

import torch

from sdlab.worlds.scenes.world import BACKGROUNDS, COLOURS, RELATIONS, SHAPES, SIZES, Scenes, held_out

_SIZE_WORDS = (("small", "little", "tiny"), ("large", "big", "huge"))
_RELATION_WORDS = (
    ("left of", "to the left of"),
    ("right of", "to the right of"),
    ("above", "over"),
    ("below", "under", "beneath"),
)
_ANY_SHAPE = "shape"
NOUNS = (*SHAPES, _ANY_SHAPE)  # a caption has one per object
_OPENINGS = ("", "", "a picture of ", "an image of ")
_GROUNDS = ("on a {} background", "against a {} background", "with a {} background", "on {}")
CHOICES = 8  # random integers for the wording of one caption
EXAMPLE = "a red circle above a small blue star on a grey background"

# How often an attribute is omitted.
_UNSAID = {"size": 0.25, "colour": 0.12, "shape": 0.05, "background": 0.2, "relation": 0.1}


@dataclass(frozen=True)
class Thing:
    """The attributes of one object in a caption. None means not stated."""

    shape: int | None = None
    colour: int | None = None
    size: int | None = None


@dataclass(frozen=True)
class Statement:
    """The facts that a caption states about a picture."""

    things: tuple[Thing, ...]
    relation: int | None = None
    background: int | None = None


def state(scenes: Scenes, generator: torch.Generator, complete: bool = False) -> list[Statement]:
    """One statement per scene: a random non-empty subset of its facts, or with `complete` all of them."""
    n = len(scenes)
    unsaid = {
        name: (torch.rand(n, 2, generator=generator) < (0.0 if complete else rate)).tolist()
        for name, rate in _UNSAID.items()
    }
    values = {name: getattr(scenes, name).tolist() for name in ("shape", "colour", "size")}
    rows = zip(scenes.count.tolist(), scenes.relation.tolist(), scenes.background.tolist(), strict=True)
    statements = []
    for i, (count, relation, background) in enumerate(rows):
        things = []
        for k in range(count):
            said = {name: None if unsaid[name][i][k] else values[name][i][k] for name in values}
            if said["shape"] is None and said["colour"] is None:
                said["colour"] = values["colour"][i][k]  # "a shape" alone would state nothing
            things.append(Thing(**said))
        related = None if count == 1 or unsaid["relation"][i][0] else relation
        statements.append(Statement(tuple(things), related, None if unsaid["background"][i][0] else background))
    return statements


def word(statement: Statement, choose: torch.Tensor) -> str:
    """The statement as a caption. The eight random integers in `choose` select the wording."""
    picks = iter(choose.tolist())

    def pick(options: tuple[str, ...]) -> str:
        return options[next(picks) % len(options)]

    def noun(thing: Thing) -> str:
        words = [] if thing.size is None else [pick(_SIZE_WORDS[thing.size])]
        words += [] if thing.colour is None else [COLOURS[thing.colour]]
        words += [_ANY_SHAPE if thing.shape is None else SHAPES[thing.shape]]
        return ("an " if words[0][0] in "aeiou" else "a ") + " ".join(words)

    text = pick(_OPENINGS) + noun(statement.things[0])
    if len(statement.things) == 2:
        link = "and" if statement.relation is None else pick(_RELATION_WORDS[statement.relation])
        text += f" {link} {noun(statement.things[1])}"
    if statement.background is not None:
        text += " " + pick(_GROUNDS).format(BACKGROUNDS[statement.background])
    return text


def describe(scenes: Scenes, generator: torch.Generator, complete: bool = False) -> list[str]:
    """One caption per scene."""
    statements = state(scenes, generator, complete)
    choices = torch.randint(1 << 30, (len(scenes), CHOICES), generator=generator)
    return [word(statement, choose) for statement, choose in zip(statements, choices, strict=True)]


_RELATION_OF = {phrase: k for k, phrases in enumerate(_RELATION_WORDS) for phrase in phrases}
_SIZE_OF = {phrase: k for k, phrases in enumerate(_SIZE_WORDS) for phrase in phrases}
_THING = re.compile(
    r"\ban? (?:(?P<size>{}) )?(?:(?P<colour>{}) )?(?P<shape>{})\b".format(
        "|".join(_SIZE_OF), "|".join(COLOURS), "|".join(NOUNS)
    )
)
_LINK = re.compile(r"\b({})\b".format("|".join(sorted(_RELATION_OF, key=len, reverse=True))))
_GROUND = re.compile(r"\b(?:on|against|with)(?: an?)? ({})\b".format("|".join(BACKGROUNDS)))


def parse(caption: str) -> Statement | None:
    """The caption's statement, or None if it names no object of this world and so cannot be checked."""
    text = " ".join(caption.lower().replace(",", " ").rstrip(". ").split())
    found = list(_THING.finditer(text))[:2]
    if not found:
        return None
    things = tuple(
        Thing(
            None if m["shape"] == _ANY_SHAPE else SHAPES.index(m["shape"]),
            None if m["colour"] is None else COLOURS.index(m["colour"]),
            None if m["size"] is None else _SIZE_OF[m["size"]],
        )
        for m in found
    )
    between = text[found[0].end() : found[1].start()] if len(found) == 2 else ""
    link, ground = _LINK.search(between), _GROUND.search(text)
    return Statement(
        things,
        None if link is None else _RELATION_OF[link[1]],
        None if ground is None else BACKGROUNDS.index(ground[1]),
    )


def facts(statement: Statement) -> list[str]:
    """The stated facts in words, one entry per fact: `["2 objects", "small", "red", …]`."""
    words = [f"{len(statement.things)} object{'s' * (len(statement.things) > 1)}"]
    for thing in statement.things:
        words += [] if thing.size is None else [SIZES[thing.size]]
        words += [] if thing.colour is None else [COLOURS[thing.colour]]
        words += [] if thing.shape is None else [SHAPES[thing.shape]]
    words += [] if statement.relation is None else [RELATIONS[statement.relation]]
    return words + ([] if statement.background is None else [f"{BACKGROUNDS[statement.background]} background"])


def alter(statement: Statement, choose: torch.Tensor) -> Statement:
    """A statement that differs in one fact. The two random integers in `choose` select the fact and its new value.

    With two objects it may also swap their colours or their order, which a bag of words cannot distinguish.
    """
    which, by = choose.tolist()
    options: list[Statement] = []
    for k, thing in enumerate(statement.things):
        for name, words in (("shape", SHAPES), ("colour", COLOURS), ("size", SIZES)):
            value = getattr(thing, name)
            if value is not None:
                other = replace(thing, **{name: (value + 1 + by % (len(words) - 1)) % len(words)})
                options.append(replace(statement, things=(*statement.things[:k], other, *statement.things[k + 1 :])))
    if statement.background is not None:
        other_ground = (statement.background + 1 + by % (len(BACKGROUNDS) - 1)) % len(BACKGROUNDS)
        options.append(replace(statement, background=other_ground))
    if statement.relation is not None:
        options.append(replace(statement, relation=(statement.relation + 1 + by % 3) % len(RELATIONS)))
    if len(statement.things) == 2 and statement.things[0] != statement.things[1]:
        first, second = statement.things
        exchanged = (replace(first, colour=second.colour), replace(second, colour=first.colour))
        options += [replace(statement, things=exchanged)] * (first.colour != second.colour) * 2
        options += [replace(statement, things=(second, first))] * (statement.relation is not None) * 2
    return options[which % len(options)]


def trained(statement: Statement) -> bool:
    """Whether no object has a shape and a colour that are held out of training."""
    pairs = [(thing.shape, thing.colour) for thing in statement.things]
    return not any(
        shape is not None and colour is not None and held_out(torch.tensor(shape), torch.tensor(colour))
        for shape, colour in pairs
    )
