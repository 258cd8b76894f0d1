"""Tables on the console. In a terminal they fit its width; in a pipe every line is whole."""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Iterator, Sequence

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table as RichTable
from rich.text import Text

from sdlab.report.columns import BEST, Column, Field, Table
from sdlab.system.console import line, show_table
from sdlab.system.text import shown

_ANY_WIDTH = 10_000
_SHORT, _WIDEST = 24, 60  # characters of a column: up to these it is never folded, and always folded


def print_table(console: Console, table: Table) -> None:
    """Print a table and its caption.

    If a terminal is too narrow, costs are left out first, then standard errors, then other columns from the right. The
    settings in words are never left out. No number is wrapped or cut.
    """
    columns: Sequence[Column] = table.for_people
    errors = True
    for columns, errors in _narrower(table.for_people) if console.is_terminal else ():
        if _least(console, columns, errors) <= console.width:
            break
    _print(console, table.title, "italic")
    show_table(console, _drawn(columns, errors, console.is_terminal))
    gone = [column.heading for column in table.for_people if column not in columns]
    gone += ["standard errors"] * (not errors)
    notes = [f"Left out at this width: {', '.join(gone)}."] if gone else []
    console.print()
    for text in (*notes, *table.legend(columns)):
        _print(console, text, "dim")


def _print(console: Console, text: str, style: str) -> None:
    """Print a line, wrapped between words in a terminal and whole in a pipe."""
    if console.is_terminal:
        console.print(Text(shown(text), style))
    else:
        line(console, text)


def _narrower(columns: Sequence[Column]) -> Iterator[tuple[Sequence[Column], bool]]:
    """The columns and whether errors are shown, narrower each time."""
    kept = list(columns)
    yield tuple(kept), True
    while any(column.minor for column in kept):
        kept.remove([column for column in kept if column.minor][-1])
        yield tuple(kept), True
    yield tuple(kept), False
    while len(numbers := [column for column in kept if not column.left]) > 1:
        kept.remove(numbers[-1])
        yield tuple(kept), False


def _least(console: Console, columns: Sequence[Column], errors: bool) -> int:
    """The least width at which no word and no number is cut, in characters."""
    drawn = _drawn(columns, errors, True)
    return Measurement.get(console, console.options.update(width=_ANY_WIDTH), drawn).minimum


def _drawn(columns: Sequence[Column], errors: bool, folded: bool) -> RichTable:
    drawn = RichTable(box=box.SIMPLE_HEAD, padding=0, show_edge=False)
    layouts = [_Layout(column, errors, folded) for column in columns]
    for layout in layouts:
        widest = _WIDEST if folded else None
        drawn.add_column(layout.heading, min_width=layout.least, overflow="fold", max_width=widest, no_wrap=not folded)
    first = columns[0].fields
    grouped = columns[0].left and len({field.text for field in first}) < len(first)
    for previous, row in itertools.pairwise((None, *zip(*(column.fields for column in columns), strict=True))):
        if row is not None:
            if previous and grouped and previous[0] != row[0]:
                drawn.add_row()
            drawn.add_row(*(layout.text(one) for layout, one in zip(layouts, row, strict=True)))
    return drawn


class _Layout:
    """The layout of a column: numbers aligned, with room for marks."""

    def __init__(self, column: Column, errors: bool, folded: bool) -> None:
        self.left, self.errors = column.left, errors
        self.marked = any(one.mark for one in column.fields)
        self.width = max((len(self.value(one)) for one in column.fields), default=0)
        heading = shown(column.heading)
        full = max(self.width + 2 * self.marked, *map(len, heading.split() if folded else [heading]), 1)
        self.width = full - 2 * self.marked
        self.least = None if self.left and full > _SHORT else full  # such a column may be folded
        wrapped = textwrap.fill(heading, full, break_long_words=False)
        self.heading = Text(wrapped, justify="left" if self.left else "right")

    def value(self, one: Field) -> str:
        """The field without its mark."""
        return shown(one.text + one.error * self.errors)

    def text(self, one: Field) -> Text:
        """The field, in bold if it is the best of its column."""
        text = self.value(one) if self.left else f"{self.value(one):>{self.width}}"
        return Text(f"{text} {one.mark}" if one.mark else text, style="bold green" if one.mark == BEST else "")
