"""Tables as web pages: one file without scripts, which loads nothing."""

from __future__ import annotations

import html

from sdlab.report.columns import BEST, Column, Field, Table
from sdlab.system.text import shown

_FRAME = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark }}
body {{ font: 15px/1.5 system-ui, sans-serif; margin: 2em }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums }}
th, td {{ padding: .2em .7em; text-align: right; white-space: nowrap; border-bottom: 1px solid #8884 }}
.left {{ text-align: left; white-space: normal }}
p {{ max-width: 75ch }}
</style>
</head>
<body>
<table>
<caption>{title}</caption>
<thead>
<tr>{head}</tr>
</thead>
<tbody>
{body}
</tbody>
</table>
{notes}
</body>
</html>
"""


def html_page(table: Table) -> str:
    """The table as a page, with the caption below it."""
    columns = table.for_people
    head = "".join(f"<th scope=col{_side(column)}>{_text(column.heading)}</th>" for column in columns)
    rows = zip(*(column.fields for column in columns), strict=True)
    body = (
        "".join(f"<td{_side(column)}>{_field(one)}</td>" for column, one in zip(columns, row, strict=True))
        for row in rows
    )
    return _FRAME.format(
        title=_text(table.title),
        head=head,
        body="\n".join(f"<tr>{row}</tr>" for row in body),
        notes="\n".join(f"<p>{_text(line)}</p>" for line in table.legend()),
    )


def _side(column: Column) -> str:
    return " class=left" if column.left else ""


def _field(one: Field) -> str:
    return f"<strong>{_text(str(one))}</strong>" if one.mark == BEST else _text(str(one))


def _text(text: str) -> str:
    return html.escape(shown(text))
