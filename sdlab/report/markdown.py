"""Tables as Markdown."""

from __future__ import annotations

import html
import re

from sdlab.report.columns import BEST, Table
from sdlab.system.text import shown


def markdown(table: Table) -> str:
    """The table as a Markdown document."""
    columns = table.for_people
    rule = [":--" if column.left else "--:" for column in columns]
    marked = [[(literal(str(one)), one.mark == BEST) for one in column.fields] for column in columns]
    body = zip(*([f"**{text}**" if best else text for text, best in column] for column in marked), strict=True)
    lines = [" | ".join(cells) for cells in ([literal(column.heading) for column in columns], rule, *body)]
    caption = [part for line in table.legend() for part in (literal(line), "")][:-1]
    return "\n".join([f"# {literal(table.title)}", "", *(f"| {line} |" for line in lines), "", *caption, ""])


def literal(text: str) -> str:
    """Text that Markdown shows as it is, without links, HTML, formulas or new columns. `_` stays inside words."""
    return re.sub(r"[\\`*\[\]|$~]|(?<=])\(|(?<!\w)_|_(?!\w)", r"\\\g<0>", html.escape(shown(text), quote=False))
