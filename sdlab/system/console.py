"""The terminal for tables and progress bars (rich)."""

from __future__ import annotations

from rich.console import Console, RenderableType
from rich.measure import Measurement
from rich.segment import Segments
from rich.text import Text

from sdlab.system.text import shown

_ANY_WIDTH = 1_000_000


def line(console: Console, text: object, style: str = "") -> None:
    """Print one line, with control characters escaped. It is not wrapped, so that it can be copied."""
    console.print(Text(shown(text), style), soft_wrap=True)


def show_table(console: Console, content: RenderableType) -> None:
    """Print a table at the width of the terminal, or wider if its words and numbers need more room than that.

    In a pipe it is as wide as its content.
    """
    measured = Measurement.get(console, console.options.update(width=_ANY_WIDTH), content)
    width = max(measured.minimum, console.width) if console.is_terminal else measured.maximum
    lines = console.render_lines(content, console.options.update(width=width), new_lines=True)
    console.print(Segments([segment for line in lines for segment in line]), crop=False, end="")
