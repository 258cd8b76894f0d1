"""Captions of portraits, and their parser.

Captions vary in wording and order and may omit facts. `parse` recovers exactly the facts that a caption states, so a
picture can be checked against any caption, not only those from `describe`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sdlab.worlds.portraits.world import FACTS, Portraits, held_out, labels


@dataclass(frozen=True)
class Statement:
    """The facts that a caption states, each an index into its entry of `FACTS`. None means not stated."""

    hair_length: int | None = None
    hair_colour: int | None = None
    mouth: int | None = None
    glasses: int | None = None
    glasses_colour: int | None = None
    hat: int | None = None
    hat_colour: int | None = None
    beard: int | None = None
    earrings: int | None = None
    top: int | None = None
    background: int | None = None


# How often a fact is omitted. The absence of a thing is omitted more often than its presence.
_UNSAID = {
    "hair_length": 0.15, "hair_colour": 0.1, "mouth": 0.1, "glasses": 0.1, "glasses_colour": 0.15, "hat": 0.05,
    "hat_colour": 0.1, "beard": 0.1, "earrings": 0.15, "top": 0.1, "background": 0.2,
}  # fmt: skip
_ABSENCE_UNSAID = 0.6
_OPTIONAL = ("glasses", "hat", "beard", "earrings")
_COLOUR_OF = {"glasses_colour": "glasses", "hat_colour": "hat"}  # the colour of what is not named is not stated

_MOUTH_WORDS = (("smiling", "happy"), ("sad", "unhappy"))
_OPENINGS = ("", "", "a portrait of ", "a picture of ")
_GROUNDS = ("on a {} background", "against a {} background", "in front of a {} background")
_TOPS = ("top", "shirt")
CHOICES = 24  # random integers for the wording of one caption
EXAMPLE = "a smiling person with long red hair, wearing black sunglasses and a green hat on a light blue background"


def state(portraits: Portraits, generator: torch.Generator, complete: bool = False) -> list[Statement]:
    """One statement per portrait: a random subset of the facts that it shows, or with `complete` all of them."""
    values = labels(portraits)
    unsaid = torch.rand(len(portraits), len(FACTS), generator=generator)
    if not complete:
        for k, (name, rate) in enumerate(_UNSAID.items()):
            absent = (values[name] == 0) & (name in _OPTIONAL)
            values[name] = values[name].where(unsaid[:, k] >= torch.where(absent, _ABSENCE_UNSAID, rate), -1)
        for colour, thing in _COLOUR_OF.items():
            values[colour] = values[colour].where(values[thing] > 0, -1)
        silent = torch.stack(list(values.values())).lt(0).all(0)
        values["background"] = torch.where(silent, portraits.colour("background"), values["background"])
    rows = torch.stack([values[name] for name in FACTS], 1).tolist()
    return [Statement(*(None if value < 0 else value for value in row)) for row in rows]


def word(statement: Statement, choose: Tensor) -> str:
    """The statement as a caption. The 24 random integers in `choose` select the wording and the order."""
    picks = iter(choose.tolist())

    def pick(options: Sequence[str]) -> str:
        return options[next(picks) % len(options)]

    def named(fact: str) -> list[str]:
        value = getattr(statement, fact)
        return [] if value is None else [FACTS[fact][value]]

    looks, worn, lacking = [], [], []
    person = [] if statement.mouth is None else [pick(_MOUTH_WORDS[statement.mouth])]
    if hair := named("hair_length") + named("hair_colour"):
        looks.append(" ".join([*hair, "hair"]))
    if statement.beard and next(picks) % 2:
        person.append("bearded")
    elif statement.beard:
        looks.append("a beard")
    elif statement.beard == 0 and next(picks) % 2:
        person.append("clean-shaven")
    elif statement.beard == 0:
        lacking.append("a beard")
    for thing in ("glasses", "hat", "earrings"):
        value = getattr(statement, thing)
        words = [*(named(f"{thing}_colour") if thing in _COLOUR_OF.values() else []), *named(thing)]
        if value == 0:
            lacking.append({"hat": "a hat"}.get(thing, thing))
        elif value is not None:
            worn.append(" ".join(["a", *words] if thing == "hat" else words))
    if statement.top is not None:
        worn.append(f"a {FACTS['top'][statement.top]} {pick(_TOPS)}")
    style, order = next(picks), [next(picks) for _ in range(12)]
    if style % 2:
        looks += [f"no {thing.removeprefix('a ')}" for thing in lacking]
        lacking = []
    looks, worn = _shuffled(looks, order), _shuffled(worn, order[6:])
    if (style >> 1) % 2:
        looks, worn = _shuffled(looks + worn, order), []
    if next(picks) % 2:
        person.reverse()
    noun = " ".join([*person, "person"])
    text = pick(_OPENINGS) + ("an " if noun[0] in "aeiou" else "a ") + noun
    text += f" with {_listed(looks)}" if looks else ""
    text += ("," * bool(looks)) + f" wearing {_listed(worn)}" if worn else ""
    text += f" without {_listed(lacking, 'or')}" if lacking else ""
    if statement.background is None:
        return text
    ground = pick(_GROUNDS).format(FACTS["background"][statement.background])
    return f"{ground}, {text}" if next(picks) % 4 == 0 else f"{text} {ground}"


def _shuffled(items: list[str], order: list[int]) -> list[str]:
    return [items[k] for k in sorted(range(len(items)), key=order.__getitem__)]


def _listed(items: list[str], conjunction: str = "and") -> str:
    return f" {conjunction} ".join([*([", ".join(items[:-1])] if len(items) > 1 else []), items[-1]])


def describe(portraits: Portraits, generator: torch.Generator, complete: bool = False) -> list[str]:
    """One caption per portrait."""
    statements = state(portraits, generator, complete)
    choices = torch.randint(1 << 30, (len(portraits), CHOICES), generator=generator)
    return [word(statement, choose) for statement, choose in zip(statements, choices, strict=True)]


def _either(words: Sequence[str]) -> str:
    return "|".join(sorted(words, key=len, reverse=True))


def _adjectives(*kinds: str) -> str:
    """A pattern of up to one adjective of each kind, in any order."""
    words = _either([word for kind in kinds for word in FACTS[kind]])
    return "".join(f"(?:({words}),? )?" for _ in kinds)


_THING = r"(?:an? )?(hat|glasses|sunglasses|beard|earrings)"
_LACKING = re.compile(rf"\b(?:no|without) {_THING}\b(?:(?:, {_THING}\b)*,? or {_THING}\b)?")
_MOUTH = re.compile(rf"\b({_either([word for words in _MOUTH_WORDS for word in words])})\b")
_HAIR = re.compile(rf"\b{_adjectives('hair_length', 'hair_colour')}hair\b")
_GLASSES = re.compile(rf"\b{_adjectives('glasses_colour')}(sunglasses|glasses)\b")
_HAT = re.compile(rf"\b{_adjectives('hat_colour')}hat\b")
_TOP = re.compile(rf"\b{_adjectives('top')}(?:{_either(_TOPS)})\b")
_GROUND = re.compile(rf"\b({_either(FACTS['background'])}) background\b")


def parse(caption: str) -> Statement | None:
    """The caption's statement, or None if it states nothing about a portrait and so cannot be checked."""
    text = " ".join(caption.lower().replace("ear-rings", "earrings").split())
    lacking = {name for m in _LACKING.finditer(text) for name in re.findall(_THING, m[0])}
    text = _LACKING.sub(" ", text)
    mouth, hair, glasses, hat, top, ground = (
        pattern.search(text) for pattern in (_MOUTH, _HAIR, _GLASSES, _HAT, _TOP, _GROUND)
    )
    statement = Statement(
        hair_length=_value("hair_length", hair),
        hair_colour=_value("hair_colour", hair),
        mouth=None if mouth is None else next(k for k, words in enumerate(_MOUTH_WORDS) if mouth[1] in words),
        glasses=0 if lacking & {"glasses", "sunglasses"} else _value("glasses", glasses),
        glasses_colour=_value("glasses_colour", glasses),
        hat=0 if "hat" in lacking else None if hat is None else 1,
        hat_colour=_value("hat_colour", hat),
        beard=0 if "beard" in lacking or "clean-shaven" in text else 1 if re.search(r"\bbeard(ed)?\b", text) else None,
        earrings=0 if "earrings" in lacking else 1 if "earrings" in text else None,
        top=_value("top", top),
        background=_value("background", ground),
    )
    return None if statement == Statement() else statement


def _value(fact: str, found: re.Match[str] | None) -> int | None:
    """The value of a fact among the words that were found."""
    words = found.groups() if found else ()
    return next((FACTS[fact].index(word) for word in words if word in FACTS[fact]), None)


def facts(statement: Statement) -> list[str]:
    """The stated facts in words, one entry per fact: `["long hair", "red hair", "no hat", …]`."""
    return [_PHRASES[name][value] for name, value in vars(statement).items() if value is not None]


def _phrases(fact: str, values: Sequence[str]) -> list[str]:
    thing, _, quality = fact.partition("_")
    if quality:
        return [f"{value} {thing}" for value in values]
    if fact in ("top", "background"):
        return [f"{value} {fact}" for value in values]
    return [f"no {fact}" if value == "none" else value for value in values]


_PHRASES = {fact: _phrases(fact, values) for fact, values in FACTS.items()}


def alter(statement: Statement, choose: Tensor) -> Statement:
    """A statement that differs in one fact. The two random integers in `choose` select the fact and its new value.

    A hat that is taken off loses its colour, as do glasses.
    """
    which, by = choose.tolist()
    stated = [name for name, value in vars(statement).items() if value is not None]
    name = stated[which % len(stated)]
    n = len(FACTS[name])
    other = replace(statement, **{name: (getattr(statement, name) + 1 + by % (n - 1)) % n})
    lost = {colour: None for colour, thing in _COLOUR_OF.items() if getattr(other, thing) == 0}
    return replace(other, **lost)


def trained(statement: Statement) -> bool:
    """Whether the colours of hair and top, where both are stated, are not held out of training."""
    hair, top = statement.hair_colour, statement.top
    return hair is None or top is None or not held_out(torch.tensor(hair), torch.tensor(top))
