"""Tables for programs: CSV, JSON and Parquet, with all values in full precision."""

from __future__ import annotations

import csv
import io
import json

from sdlab.report.columns import Column, Table, Value
from sdlab.system.errors import UsageError
from sdlab.system.text import shown

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")


def csv_text(table: Table) -> str:
    """One line per row, after a line with the names of the columns. Missing values are empty."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([_inert(column.name) for column in table.for_machines])
    writer.writerows(zip(*([_field(value) for value in column.values] for column in table.for_machines), strict=True))
    return out.getvalue()


def json_text(table: Table) -> str:
    """A list with one object per row, in ASCII. Missing values are null."""
    names = [column.name for column in table.for_machines]
    rows = zip(*(column.values for column in table.for_machines), strict=True)
    return json.dumps([dict(zip(names, row, strict=True)) for row in rows], indent=1, allow_nan=False) + "\n"


def parquet_bytes(table: Table) -> bytes:
    """A Parquet file. A column with numbers and words is written as words.

    Raises:
        UsageError: pyarrow is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError:
        raise UsageError("--format parquet needs the package pyarrow: pip install 'sdlab[parquet]'") from None
    columns = {shown(column.name): _of_one_type(column) for column in table.for_machines}
    out = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(columns), out)
    return out.getvalue()


def _of_one_type(column: Column) -> list[Value]:
    if any(isinstance(value, str) for value in column.values):
        return [None if value is None else shown(value) for value in column.values]
    return list(column.values)


def _field(value: Value) -> str:
    if isinstance(value, str):
        return _inert(value)
    return "" if value is None else repr(value).removesuffix(".0")


def _inert(text: str) -> str:
    """Text for a spreadsheet, which takes fields that begin with these characters for formulas."""
    return f"'{shown(text)}" if text.startswith(_FORMULA) else shown(text)
