"""Tables as columns, with every value both as it is and as text for people."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

BEST, TIE = "★", "≈"

Value = str | int | float | None
"""A value of a table. None is a missing value; numbers are finite."""


@dataclass(frozen=True)
class Field:
    """A value as text. `mark` is a star, a tie sign or empty; `error` is a standard error like `"±.20"` or empty."""

    text: str
    mark: str = ""
    error: str = ""

    def __str__(self) -> str:
        """`"3.21±.20 ★"`."""
        return f"{self.text}{self.error} {self.mark}".rstrip()


@dataclass(frozen=True)
class Column:
    """A column: its name in files and on the command line, its heading for people, and its values."""

    name: str
    heading: str
    values: tuple[Value, ...]
    fields: tuple[Field, ...]
    left: bool = False  # aligned to the left: words
    minor: bool = False  # left out first in a narrow terminal
    people: bool = True  # shown in tables for people
    machine: bool = True  # written to files for programs
    about: str = ""  # sentences for people, in the legend of tables that show the column

    def at(self, rows: Sequence[int]) -> Column:
        """The column with these rows, in this order."""
        return replace(self, values=tuple(self.values[i] for i in rows), fields=tuple(self.fields[i] for i in rows))


@dataclass(frozen=True)
class Table:
    """A table. The caption has the shared settings and the legend, one sentence or more per line."""

    title: str
    columns: tuple[Column, ...]
    caption: tuple[str, ...]

    def legend(self, shown: Sequence[Column] | None = None) -> tuple[str, ...]:
        """The caption, with what the columns that are shown mean after its first line. By default all for people."""
        columns = self.for_people if shown is None else shown
        about = " ".join(dict.fromkeys(column.about for column in columns if column.about))
        return (*self.caption[:1], *([about] if about else []), *self.caption[1:])

    @property
    def for_people(self) -> tuple[Column, ...]:
        """The columns of tables for people."""
        return tuple(column for column in self.columns if column.people)

    @property
    def for_machines(self) -> tuple[Column, ...]:
        """The columns of files for programs."""
        return tuple(column for column in self.columns if column.machine)

    def at(self, rows: Sequence[int]) -> Table:
        """The table with these rows, in this order."""
        return replace(self, columns=tuple(column.at(rows) for column in self.columns))
