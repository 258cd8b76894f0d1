"""Choosing the rows and columns of a table: `--filter`, `--sort` and `--columns`."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from samplers.checks import unknown
from sdlab.report.columns import Column, Table, Value
from sdlab.report.table import CHOICES
from sdlab.system.errors import UsageError

_CONDITION = re.compile(r"""\s*([^\s<>=!]+)\s*(<=|>=|!=|==|=|<|>)\s*("[^"]*"|'[^']*'|\S+)""")
_ORDER: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


@dataclass(frozen=True)
class Condition:
    """One condition of a filter, such as `steps>=10`. `=` takes several values, `!=` none of several."""

    name: str
    relation: str
    wanted: tuple[str, ...]

    def holds(self, column: Column, value: Value) -> bool:
        """Whether a value of the column meets the condition. A missing value is smaller and larger than none."""
        if (compare := _ORDER.get(self.relation)) is not None:
            return isinstance(value, int | float) and compare(value, float(self.wanted[0]))
        return any(_equal(column, value, one) for one in self.wanted) is not (self.relation == "!=")


def _equal(column: Column, value: Value, wanted: str) -> bool:
    """Whether a value is the one wanted. A name also stands for its choices with any options."""
    if isinstance(value, str):
        return value == wanted or (column.name in CHOICES and value.startswith(f"{wanted} "))
    number = _number(wanted)
    return value == number if number is not None else value is None and wanted == ""


def conditions(text: str, table: Table) -> list[Condition]:
    """The conditions of a filter like `"sampler=ddim steps>=10"`.

    Raises:
        UsageError: the text has another form, names an unknown column, or compares words by size.
    """
    found, place = [], 0
    while text[place:].strip():
        match = _CONDITION.match(text, place)
        if match is None:
            raise UsageError(f'--filter: cannot read {text[place:].strip()!r}; write it like "sampler=ddim steps>=10"')
        name, relation, value = match.groups()
        quoted = value[0] in "\"'" and len(value) > 1
        several = [value[1:-1]] if quoted else value.split(",") if relation in ("=", "==", "!=") else [value]
        column = column_of(table, name, "--filter")
        if relation in _ORDER:
            if column.left:
                raise UsageError(f"--filter: {name} has words, which cannot be compared with {relation}; use = or !=")
            if _number(several[0]) is None:
                raise UsageError(f"--filter: {name}{relation}{value}: {value!r} is not a number")
        found.append(Condition(column.name, relation, tuple(several)))
        place = match.end()
    return found


def matching(table: Table, found: Sequence[Condition]) -> list[int]:
    """The rows that meet all conditions."""
    columns = {column.name: column for column in table.columns}
    count = len(table.columns[0].values)
    return [i for i in range(count) if all(one.holds(columns[one.name], columns[one.name].values[i]) for one in found)]


def sorted_by(table: Table, text: str) -> list[int]:
    """The rows in the order of columns like `"sampler,-fid"`; `-` is highest first. Missing values are last.

    Raises:
        UsageError: a column is unknown.
    """
    rows = list(range(len(table.columns[0].values)))
    for name in reversed(_names(text)):
        column = column_of(table, name.removeprefix("-"), "--sort")
        there = [i for i in rows if column.values[i] is not None]
        there.sort(key=lambda i: _rank(column.values[i]), reverse=name.startswith("-"))
        rows = there + [i for i in rows if column.values[i] is None]
    return rows


def _rank(value: Value) -> tuple[bool, float, str]:
    """Numbers before words."""
    return (True, 0.0, value) if isinstance(value, str) else (False, value or 0.0, "")


def with_columns(table: Table, text: str) -> Table:
    """The table with these columns alone, in this order, for people and programs.

    Raises:
        UsageError: a column is unknown, or none is named.
    """
    names = dict.fromkeys(column_of(table, name, "--columns").name for name in _names(text))
    if not names:
        raise UsageError('--columns: name at least one column, like "sampler,steps,fid"')
    columns = {column.name: column for column in table.columns}
    return replace(
        table, columns=tuple(replace(columns[name], people=True, machine=True, minor=False) for name in names)
    )


def column_of(table: Table, name: str, option: str) -> Column:
    """A column by its name, by its heading, or by the name of an option alone, like `scale`.

    Raises:
        UsageError: there is no such column, or there are several.
    """
    columns = {column.name: column for column in table.columns}
    if name in columns:
        return columns[name]
    headed = [column for column in table.columns if column.heading == name]
    options = [column for column in table.columns if "." in column.name and column.name.partition(".")[2] == name]
    found = headed or options
    if len(found) > 1:
        names = [column.name for column in found]
        raise UsageError(f"{option}: {name!r} is ambiguous; write {', '.join(names[:-1])} or {names[-1]}")
    if not found:
        raise UsageError(f"{option}: {unknown('column', name, columns)}")
    return found[0]


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
