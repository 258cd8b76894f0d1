"""The terminal for tables and progress bars (rich)."""

from __future__ import annotations

from rich.console import Console, RenderableType
from rich.measure import Measurement
from rich.text import Text

from sdlab.system.text import shown

_ANY_WIDTH = 10_000


def line(console: Console, text: object, style: str = "") -> None:
    """Print one line, with control characters escaped. It is not wrapped, so that it can be copied."""
    console.print(Text(shown(text), style), soft_wrap=True)


def show_table(console: Console, content: RenderableType) -> None:
    """Print a table at the width of the console, or wider if its words and numbers need more room than that."""
    room = console.options.update(width=_ANY_WIDTH)
    least = Measurement.get(console, room, content).minimum
    console.print(content, width=max(least, console.width), crop=False)
