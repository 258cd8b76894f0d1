"""Pictures of other tools: their parameters as a request, with what sdlab does not draw."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from sdlab.commands.request import Request


class Unreadable(Exception):
    """The parameters of a picture cannot be a request. The message is the reason and the fix."""


@dataclass(frozen=True)
class Foreign:
    """What a picture of another tool was drawn with. Its model is a checkpoint that is known by its name alone."""

    tool: str
    checkpoint: str  # empty if it is not known
    request: Request  # whose model is still to be chosen
    notes: tuple[str, ...] = ()


def number(kind: type[int] | type[float], what: str, value: object) -> int | float:
    """A value as a number.

    Raises:
        Unreadable: it is none.
    """
    try:
        return kind(value)  # type: ignore[call-overload, arg-type]
    except (TypeError, ValueError, OverflowError):
        raise Unreadable(f"{what} should be a number, got {value!r}") from None


def known(what: str, name: str, names: Mapping[str, str]) -> str:
    """Our name for theirs.

    Raises:
        Unreadable: there is none.
    """
    if name not in names:
        raise Unreadable(f"{what} {name!r} has no counterpart in sdlab; write the options into a TOML file")
    return names[name]


def of_prompt(prompt: str) -> tuple[str, ...]:
    """Notes on syntax in a prompt that sdlab takes as plain text."""
    found = []
    if re.search(r"<(lora|lyco|hypernet):", prompt):
        found.append("networks in the prompt, like <lora:…>, are not loaded")
    if re.search(r"\([^()]*:[\d.]+\)|\[[^\[\]]*:[^\[\]]*\]|\(\(|\[\[", prompt):
        found.append("weights and schedules in the prompt, like (word:1.2), are taken as plain text")
    return tuple(found)
