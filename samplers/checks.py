"""Option checks. Each error message is one line with the invalid value and the valid ones."""

from __future__ import annotations

import difflib
import inspect
import math
import typing
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from numbers import Real
from typing import Any, TypeVar

T = TypeVar("T")

HIGHEST = 1e9  # far above what makes sense for an option; with more a typing error becomes NaN, or an overflow


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`" (did you mean 'euler'?)"` if `word` is close to one of `known`, otherwise an empty string.

    Among close ones, a name with the same letters is preferred, since swapped letters are the most common mistake.
    """
    near = difflib.get_close_matches(word, list(known))
    near.sort(key=lambda name: sorted(name) != sorted(word))
    return f" (did you mean {near[0]!r}?)" if near else ""


def unknown(kind: str, word: str, known: Iterable[str]) -> str:
    """`"unknown sampler 'eular' (did you mean 'euler'?); known: ddim, euler"`."""
    names = sorted(known)
    return f"unknown {kind} {word!r}{did_you_mean(word, names)}; known: {', '.join(names)}"


def look_up(kind: str, name: str, known: Mapping[str, T]) -> T:
    """`known[name]`.

    Raises:
        ValueError: the name is unknown; the message lists the nearest name and all known names.
    """
    if name not in known:
        raise ValueError(unknown(kind, name, known))
    return known[name]


def parameters_of(target: Callable[..., object]) -> Mapping[str, inspect.Parameter]:
    """The parameters of `target`. Those of classes and functions are kept: every cell of a sweep asks for them."""
    if inspect.isclass(target) or inspect.isfunction(target):
        return _parameters(target)  # type: ignore[arg-type]  # both are hashable
    return inspect.signature(target).parameters


@lru_cache(maxsize=1024)
def _parameters(target: Callable[..., object]) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(target).parameters


def options_of(target: Callable[..., object]) -> tuple[str, ...]:
    """The parameters of `target`, without the `steps` and `levels` that every grid takes."""
    return tuple(name for name in parameters_of(target) if name not in ("steps", "levels"))


def option_types(target: Callable[..., object]) -> dict[str, Any]:
    """The types of a class's fields or a function's parameters; empty if they exist for type checkers only."""
    try:
        return typing.get_type_hints(target if inspect.isclass(target) or inspect.isfunction(target) else type(target))
    except NameError:
        return {}


def check_options(
    what: str, target: Callable[..., object], options: Mapping[str, Any], also: Iterable[str] = ()
) -> None:
    """Check that `target` accepts all of `options`; `what` names it in the message, which lists `also` as well.

    Raises:
        ValueError: an option is unknown.
    """
    known = (*options_of(target), *also)
    for option in options:
        if option not in known:
            takes = f"it takes: {', '.join(known)}" if known else "it takes none"
            raise ValueError(f"{what} has no option {option!r}{did_you_mean(option, known)}; {takes}")


def whole(where: str, value: object, low: int, high: int = 10_000) -> None:
    """Check an integer with low ≤ value ≤ high. The default `high` is far above what makes sense for an option.

    Raises:
        ValueError: it is not.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < low:
        raise ValueError(f"{where} must be an integer of at least {low}, got {value!r}")
    if value > high:
        raise ValueError(f"{where} must be an integer of at most {high}, got {value!r}")


def one_of(where: str, value: object, known: Iterable[str | int]) -> None:
    """Check that `value` is one of `known`, strings or integers.

    Raises:
        ValueError: it is not.
    """
    known = list(known)
    if isinstance(value, bool) or not isinstance(value, str | int) or value not in known:
        raise ValueError(f"{where} must be one of {', '.join(map(repr, known))}, got {value!r}")


def flag(where: str, value: object) -> None:
    """Check that `value` is True or False.

    Raises:
        ValueError: it is not.
    """
    if not isinstance(value, bool):
        raise ValueError(f"{where} must be True or False, got {value!r}")


def within(where: str, value: object, low: float, high: float = HIGHEST) -> None:
    """Check a finite number with low ≤ value ≤ high.

    Raises:
        ValueError: it is not.
    """
    if not _finite(value) or not low <= value <= high:  # type: ignore[operator]
        span = f"be in [{low}, {high}]" if high != HIGHEST else f"be a number of at least {low}"
        if high == HIGHEST and _finite(value) and value > high:  # type: ignore[operator]
            span = f"be at most {high:g}"
        raise ValueError(f"{where} must {span}, got {value!r}")


def positive(where: str, value: object) -> None:
    """Check a number above 0, and at most `HIGHEST`.

    Raises:
        ValueError: it is not.
    """
    if not _finite(value) or not value > 0:  # type: ignore[operator]
        raise ValueError(f"{where} must be a number above 0, got {value!r}")
    within(where, value, 0)


def limit(where: str, value: object) -> None:
    """Check a limit: a number above 0, or inf for none.

    Raises:
        ValueError: it is not.
    """
    if value != math.inf:
        positive(where, value)


def _finite(value: object) -> bool:
    try:
        return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # of an integer beyond the range of floats
        return False
