"""A view of a run's table: some of its rows and columns, in some order and format."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from samplers.checks import unknown
from sdlab.report.columns import Table
from sdlab.report.factors import make_factors, repeated
from sdlab.report.formats import FORMATS, TERMINAL
from sdlab.report.pivot import pivoted
from sdlab.report.query import conditions, matching, sorted_by, with_columns
from sdlab.report.stored_run import StoredRun, opened_run
from sdlab.report.table import make_table
from sdlab.report.terminal import print_table
from sdlab.system.errors import UsageError
from sdlab.system.output import remark, write_bytes


@dataclass(frozen=True)
class View:
    """The options of a view, as on the command line. None is the default of each."""

    format: str | None = None
    filter: str | None = None
    sort: str | None = None
    columns: str | None = None
    pivot: str | None = None
    value: str | None = None
    factors: bool = False

    def of(self, run: StoredRun) -> Table:
        """The table of a run in this view.

        Raises:
            UsageError: an option is invalid, or no cell matches the filter.
        """
        if (self.pivot is None) is not (self.value is None):
            raise UsageError('--pivot and --value go together: --pivot "steps x scale" --value fid')
        if self.pivot is not None and self.columns is not None:
            raise UsageError("--pivot chooses the columns itself; leave out --columns")
        if self.pivot is not None and self.factors:
            raise UsageError("--pivot and --factors are two tables; give one of them")
        table, rows = make_table(run.plan, run.rows, run.real), list(run.rows)
        if self.filter is not None:
            rows = [rows[i] for i in matching(table, conditions(self.filter, table))]
            if not rows:
                raise UsageError(f"--filter: none of the {len(run.rows)} cells matches {self.filter!r}")
            table = make_table(run.plan, rows, run.real, run.rows)
        if self.factors:
            found = make_factors(run.plan, rows)
            if found is None and repeated(rows):
                raise UsageError(
                    "--factors: the cells differ in images or seed; choose equal ones with --filter seed=0"
                )
            if found is None:
                raise UsageError("--factors: needs a metric, and at least three cells whose settings differ")
            order = range(len(found.columns[0].values)) if self.sort is None else sorted_by(found, self.sort)
            return found.at(order) if self.columns is None else with_columns(found.at(order), self.columns)
        if self.sort is not None:
            order = sorted_by(table, self.sort)
            table, rows = table.at(order), [rows[i] for i in order]
        if self.pivot is not None and self.value is not None:
            return pivoted(table, [row.cell for row in rows], self.pivot, self.value)
        return table if self.columns is None else with_columns(table, self.columns)


def print_view(directory: Path, view: View, console: Console) -> None:
    """Print a run's table in a view. A table for people goes to the console, all other formats to standard output.

    Raises:
        UsageError: the directory has no results, or an option is invalid.
        RunError: the store is damaged, or standard output cannot be written.
    """
    form = check_format(view.format)
    with opened_run(directory) as run:
        table = view.of(run)
        for note in run.notes:
            remark(f"note: {note}")
    print_as(form, table, console, directory.name)


def check_format(form: str | None) -> str:
    """The format with this name, by default that of the terminal.

    Raises:
        UsageError: the format is unknown.
    """
    known = (TERMINAL, *FORMATS)
    if form is not None and form not in known:
        raise UsageError(f"--format: {unknown('format', form, known)}")
    return form or TERMINAL


def print_as(form: str, table: Table, console: Console, name: str) -> None:
    """Print a table in a format. `name` is that of a file in messages.

    Raises:
        UsageError: the format is not text, and standard output is a terminal.
        RunError: standard output cannot be written.
    """
    if form == TERMINAL:
        print_table(console, table)
        return
    content = FORMATS[form](table)
    if isinstance(content, str):
        sys.stdout.write(content)
    elif sys.stdout.isatty():
        raise UsageError(f"--format {form} is not text; redirect it to a file: > {name}.{form}")
    else:
        write_bytes(content)
