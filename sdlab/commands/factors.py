"""The settings in which two requests differ, each as a change that can be made on its own."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from sdlab.commands.inline_choice import parse_choice
from sdlab.commands.request import Request, size_text
from sdlab.registry import Registry, frozen
from sdlab.sweep.axes import GRID, GUIDANCE, SAMPLER
from sdlab.system.errors import UsageError

_CHOICES: dict[str, Registry] = {"sampler": SAMPLER, "grid": GRID, "guidance": GUIDANCE}
_VALUES = ("steps", "seed", "prompt", "negative", "size", "dtype", "tiles")
_INPUT = ("init_image", "strength", "fit", "invert", "caption")
_MODEL = ("model", "weights", "vocab", "merges")


@dataclass(frozen=True)
class Factor:
    """A setting with its values in A and B. `swap` gives a request B's value and leaves all else."""

    name: str
    before: str
    after: str
    swap: Callable[[Request], Request]


def factors(a: Request, b: Request) -> list[Factor]:
    """The settings in which B differs from A, each of which can be swapped without the others.

    Options of one sampler, grid or strategy are settings of their own. The names of two are one setting with all
    options, and so is an input picture that only one of the two has.

    Raises:
        UsageError: the models differ, or a sampler, grid or strategy is unknown.
    """
    if changed := [key for key in _MODEL if getattr(a, key) != getattr(b, key)]:
        one, other = (getattr(request, changed[0]) for request in (a, b))
        raise UsageError(f"{changed[0]}: A has {one!r} and B has {other!r}; only pictures of one model can be compared")
    found = [factor for key in _CHOICES for factor in _of_choice(key, a, b)]
    found += [_fields(key, [key], a, b) for key in _VALUES if getattr(a, key) != getattr(b, key)]
    changed = [key for key in _INPUT if getattr(a, key) != getattr(b, key)]
    if (a.init_image is None) != (b.init_image is None):
        found.append(_fields("input picture", changed, a, b))
    else:
        found += [_fields(key, [key], a, b) for key in changed]
    return found


def _fields(name: str, keys: list[str], a: Request, b: Request) -> Factor:
    """The change of one or more fields of a request."""
    values = {key: getattr(b, key) for key in keys}
    return Factor(name, _text(getattr(a, keys[0])), _text(values[keys[0]]), lambda request: replace(request, **values))


def _of_choice(key: str, a: Request, b: Request) -> Iterator[Factor]:
    """The change of a choice: of its name, or of each of its options."""
    (name, mine), (other, theirs) = _parsed(key, a), _parsed(key, b)
    if name != other:
        yield _fields(key, [key], a, b)
        return
    registry = _CHOICES[key]
    before, after = registry.complete(name, mine), registry.complete(name, theirs)
    for option in dict.fromkeys([*mine, *theirs]):
        if before.get(option) != after.get(option):
            swap = partial(_with_option, key, option, theirs.get(option))
            yield Factor(f"{key}.{option}", _text(before.get(option)), _text(after.get(option)), swap)


def _with_option(key: str, option: str, value: Any, request: Request) -> Request:
    """The request with an option of a choice set, or without it if the value is None."""
    name, options = parse_choice(getattr(request, key))
    options = {k: v for k, v in {**options, option: value}.items() if v is not None}
    changed: dict[str, Any] = {key: choice_text(name, options)}
    return replace(request, **changed)


def choice_text(name: str, options: Mapping[str, Any]) -> str:
    """A choice as one argument of the command line: `"cfg scale=3.0"`."""
    words = [name if name.split() == [name] else json.dumps(name), *(f"{k}={_toml(v)}" for k, v in options.items())]
    return " ".join(words)


def _parsed(key: str, request: Request) -> tuple[str, dict[str, Any]]:
    """The name and options of a choice. Custom code is loaded.

    Raises:
        UsageError: the text is malformed, the name is unknown, or an option is invalid.
    """
    try:
        name, given = parse_choice(getattr(request, key))
    except ValueError as error:
        raise UsageError(f"{key}: {error}") from None
    options = {option: frozen(value) for option, value in given.items()}
    if wrong := _CHOICES[key].mistakes(name, options, build=False):
        raise UsageError(*(f"{key}: {message}" for _, message in wrong))
    return name, options


def _toml(value: Any) -> str:
    """A value of an option without spaces, as `parse_choice` reads it."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}={_toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(_toml, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


def _text(value: Any) -> str:
    if value is None or value == "":
        return "none"
    if isinstance(value, tuple) and len(value) == 2:
        return size_text(value)
    return f"{value:g}" if isinstance(value, float) else str(value)
