"""The search space: the alternatives of each axis of `[cells]`, with ranges in the place of numbers."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from samplers.checks import unknown
from sdlab.registry import Mistake, label, named
from sdlab.sweep.cell import canonical
from sdlab.system.limits import brief

_KEYS = ("from", "to", "log")
_LARGEST = 1e300  # above it, and for whole numbers that no float can hold, nothing could be computed
_DIGITS = 3  # of a number between the ends of a range: more cannot be told apart, and equal cells run once


@dataclass(frozen=True)
class Span:
    """A range of numbers, both ends included. Two whole numbers make a range of whole numbers."""

    low: float
    high: float
    log: bool = False

    @property
    def whole(self) -> bool:
        """Whether the range has whole numbers alone."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    def rounded(self, value: float) -> float:
        """A number of the range with three significant digits."""
        return value if self.whole else min(max(float(f"{value:.{_DIGITS}g}"), self.low), self.high)

    def __str__(self) -> str:
        return f"{self.low:g}…{self.high:g}"


class Suggest(ABC):
    """Proposes values by name. The names and what they range over are the same in every proposal."""

    @abstractmethod
    def one_of(self, name: str, texts: Sequence[str]) -> int:
        """The index of one of several texts."""
        ...

    @abstractmethod
    def number(self, name: str, span: Span) -> float:
        """A number of a range."""
        ...


@dataclass(frozen=True)
class Space:
    """The alternatives of each axis, in which ranges are `Span`s."""

    axes: Mapping[str, tuple[object, ...]]

    def at(self, end: Literal["low", "high"]) -> dict[str, list[object]]:
        """`[cells]` of a sweep with every alternative at this end of its ranges."""
        return {
            axis: [_filled(one, axis, lambda _, span: getattr(span, end)) for one in alternatives]
            for axis, alternatives in self.axes.items()
        }

    def proposal(self, suggest: Suggest) -> dict[str, object]:
        """One value for each axis, like a cell of a sweep file."""
        found: dict[str, object] = {}
        for axis, alternatives in self.axes.items():
            name, i = axis, 0
            if len(alternatives) > 1:
                i = suggest.one_of(axis, self.texts(axis))
                name = f"{axis}[{i}]"
            found[axis] = _filled(alternatives[i], name, lambda key, span: span.rounded(suggest.number(key, span)))
        return found

    def texts(self, axis: str) -> list[str]:
        """The alternatives of an axis as text, like `"cfg scale=1…8"`."""
        return [_text(one) for one in self.axes[axis]]

    @property
    def cells(self) -> float:
        """The number of cells, infinite if there is a range of other numbers than whole ones."""
        return math.prod(sum(map(_count, alternatives)) for alternatives in self.axes.values())


def read_space(cells: Mapping[str, object]) -> tuple[Space, list[Mistake]]:
    """The search space in `[cells]`, and the (key path, sentence) of each mistake in its ranges.

    All else is checked as in a sweep, at both ends of the ranges.
    """
    mistakes: list[Mistake] = []
    axes: dict[str, tuple[object, ...]] = {"grid": ("trailing",), "guidance": ("none",)}
    for axis, value in cells.items():
        listed = value if isinstance(value, list) else [value]
        places = [f"{axis}[{i}]" if isinstance(value, list) else axis for i in range(len(listed))]
        axes[axis] = tuple(_read(one, place, mistakes) for one, place in zip(listed, places, strict=True))
    return Space(axes), mistakes


def _read(value: object, place: str, mistakes: list[Mistake]) -> object:
    """The value with its ranges as `Span`s."""
    if isinstance(value, list):
        return [_read(one, f"{place}[{i}]", mistakes) for i, one in enumerate(value)]
    if not isinstance(value, dict):
        return value
    if not value.keys() & {"from", "to"}:
        return {key: _read(one, f"{place}.{key}", mistakes) for key, one in value.items()}
    faults: list[Mistake] = [(f"{place}.{key}", unknown("key", key, _KEYS)) for key in value if key not in _KEYS]
    low, high = (_number(value.get(key)) for key in ("from", "to"))
    log = value.get("log", False)
    if low is None or high is None:
        faults.append((place, f"should be a range like {{from = 1.0, to = 8.0}}, got {brief(value)}"))
    elif not low < high:
        faults.append((place, f"`from` should be below `to`, got {brief(value)}"))
    elif not isinstance(log, bool):
        faults.append((f"{place}.log", f"should be true or false, got {brief(log)}"))
    elif log and not low > 0:
        faults.append((place, f"`log` needs a range above 0, got {brief(value)}"))
    elif not faults:
        return Span(low, high, log)
    mistakes += faults
    return 0


def _number(value: object) -> float | None:
    """The value if it is a finite number, whole or not; otherwise None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if abs(value) <= _LARGEST else None


def _filled(value: object, name: str, number: Callable[[str, Span], float]) -> object:
    """The value with a number for each of its ranges, which are named by their place."""
    if isinstance(value, Span):
        return number(name, value)
    if isinstance(value, list):
        return [_filled(one, f"{name}[{i}]", number) for i, one in enumerate(value)]
    if isinstance(value, dict):
        return {key: _filled(one, f"{name}.{key}", number) for key, one in value.items()}
    return value


def _count(value: object) -> float:
    """How many values an alternative stands for."""
    if isinstance(value, Span):
        return value.high - value.low + 1 if value.whole else math.inf
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return math.prod(map(_count, parts))


def _text(value: object) -> str:
    value = named(value)
    if isinstance(value, dict) and isinstance(value.get("name"), str):
        return label(value["name"], {key: one for key, one in value.items() if key != "name"})
    return str(value) if isinstance(value, str | int | float | Span) else canonical(value)
