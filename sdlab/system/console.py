"""The terminal for tables and progress bars (rich)."""

from __future__ import annotations

from rich.console import Console, RenderableType
from rich.measure import Measurement
from rich.segment import Segments
from rich.text import Text

from sdlab.system.text import shown

_ANY_WIDTH = 10_000


def line(console: Console, text: object, style: str = "") -> None:
    """Print one line, with control characters escaped. It is not wrapped, so that it can be copied."""
    console.print(Text(shown(text), style), soft_wrap=True)


def show_table(console: Console, content: RenderableType) -> None:
    """Print a table at the width of the console, or wider if its words and numbers need more room than that."""
    least = Measurement.get(console, console.options.update(width=_ANY_WIDTH), content).minimum
    lines = console.render_lines(content, console.options.update(width=max(least, console.width)), new_lines=True)
    console.print(Segments([segment for line in lines for segment in line]), crop=False, end="")
