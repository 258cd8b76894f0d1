"""The formats of `sdlab report --format`, by name."""

from __future__ import annotations

from collections.abc import Callable

from sdlab.report.columns import Table
from sdlab.report.html_table import html_page
from sdlab.report.latex import latex
from sdlab.report.machine import csv_text, json_text, parquet_bytes
from sdlab.report.markdown import markdown

FORMATS: dict[str, Callable[[Table], str | bytes]] = {
    "md": markdown,
    "csv": csv_text,
    "json": json_text,
    "parquet": parquet_bytes,
    "latex": latex,
    "html": html_page,
}
TERMINAL = "table"  # printed on the console, in place of a text
