"""The report of a run directory: tables, plots and a contact sheet, made from its store alone."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

from PIL import Image
from rich.console import Console

from sdlab.metrics import Metric
from sdlab.report.columns import Table
from sdlab.report.contact_sheet import Strip, contact_sheet
from sdlab.report.differences import make_differences
from sdlab.report.factors import factors, make_factors, summary
from sdlab.report.machine import csv_text
from sdlab.report.markdown import markdown
from sdlab.report.page.data import page_data
from sdlab.report.page.document import document
from sdlab.report.repeats import make_repeats
from sdlab.report.shown import Pair, is_crowded, trade_offs
from sdlab.report.stored_run import StoredRun, opened_run
from sdlab.report.table import make_table
from sdlab.report.terminal import print_table
from sdlab.report.terminal_plot import print_plot
from sdlab.sweep.cell import Cell, digest
from sdlab.sweep.plan import Plan
from sdlab.sweep.store import Row
from sdlab.system.console import line
from sdlab.system.errors import RunError
from sdlab.system.files import file_words, make_folder, replacing

PAGE = "report.html"
_PRINTED = 500  # rows of a table on the console
_DRAWN = "report"  # the note in the store that records the contents of the report files


def report(directory: Path, console: Console, redraw: bool = True, pdf: bool = False) -> list[Path]:
    """Print the tables of a run directory and write the files of its report; returns their paths.

    Without `redraw`, up-to-date files are not written again. The tables are printed even if files cannot be written.
    Of very long tables the beginning is printed. With `pdf`, every plot is a PDF too.

    Raises:
        UsageError: the directory has no results.
        RunError: the store is damaged, or a file cannot be written.
    """
    unwritten: list[RunError] = []
    with opened_run(directory, only_read=False) as run:
        store = run.store
        more = {"differences.md": make_differences(run.plan, run.rows), "repeats.md": make_repeats(run.plan, run.rows)}
        tables = {"table.md": _table(run)} | {name: table for name, table in more.items() if table is not None}
        files = list(_files(run, tables, directory, (".png", ".pdf") if pdf else (".png",)))
        paths = [path for group, _ in files for path in group]
        drawn = digest([run.plan.model_dump_json(), [(row.key, row.created) for row in run.rows]])
        if redraw or store.note(_DRAWN) != drawn or not all(path.is_file() for path in paths):
            unwritten = list(_write(write for _, write in files))
            if not unwritten:
                unwritten = list(_write([partial(store.set_note, _DRAWN, drawn)]))
    for note in run.notes:
        line(console, f"note: {note}")
    for name, table in tables.items():
        print_table(console, _beginning(table, name))
    print_plot(console, run.plan, run.rows)
    line(console, f"report: {directory / PAGE}")
    if unwritten:
        others = f"; {len(unwritten) - 1} more files cannot be written either" if unwritten[1:] else ""
        raise RunError(f"{unwritten[0]}{others}")
    return paths


def _table(run: StoredRun) -> Table:
    """The table of results and, if several settings vary, a line on how much each of them matters."""
    table = make_table(run.plan, run.rows, run.real)
    found = make_factors(run.plan, run.rows) if len(factors(run.rows)) > 1 else None
    return table if found is None else replace(table, caption=(*table.caption, summary(run.plan, found)))


def _beginning(table: Table, file: str) -> Table:
    """The table with as many rows as can be read on a console. `file` has all of them."""
    count = len(table.columns[0].values)
    if count <= _PRINTED:
        return table
    rest = f"The first {_PRINTED} of {count} rows are printed, and {file} has all of them."
    return replace(table.at(range(_PRINTED)), caption=(*table.caption[:1], rest, *table.caption[1:]))


def _write(functions: Iterable[Callable[[], object]]) -> Iterator[RunError]:
    """Write all files that can be written. Yields an error for each of the others."""
    for write in functions:
        try:
            write()
        except RunError as error:
            yield error


def _files(
    run: StoredRun, tables: Mapping[str, Table], directory: Path, formats: Sequence[str]
) -> Iterator[tuple[list[Path], Callable[[], object]]]:
    """The files of the report, with the functions that write them. `formats` are the endings of plots."""
    plan, rows = run.plan, run.rows
    path = directory / "table.csv"
    yield [path], partial(_write_text, path, csv_text(tables["table.md"]))
    for name, table in tables.items():
        yield [directory / name], partial(_write_text, directory / name, markdown(table))
    yield [directory / PAGE], partial(_write_page, directory / PAGE, run, tables["table.md"])
    if any(run.pictures(row) for row in rows):
        path = directory / "contact_sheet.png"
        yield [path], partial(_draw_sheet, path, run)
    for ending in formats:
        for metric in plan.measures:
            path = directory / f"{metric.name}{ending}"
            yield [path], partial(_plot, path, run, metric)
        if any(row.error_path.size for row in rows):
            path = directory / f"error_along_sigma{ending}"
            yield [path], partial(_plot_error_path, path, run)
        for pair in trade_offs(plan):
            path = directory / f"{pair[0].name}_for_{pair[1].name}{ending}"
            yield [path], partial(_plot_trade_off, path, run, pair)
    for row in rows if not plan.metrics else ():
        if row.ok:
            paths = _picture_paths(directory / "pictures", plan, row)
            yield paths, partial(_write_pictures, paths, run, row)


def _write_text(path: Path, text: str) -> None:
    with replacing(path) as draft:
        draft.write_text(text, encoding="utf-8")


def _write_page(path: Path, run: StoredRun, table: Table) -> None:
    _write_text(path, document(table.title, page_data(run, table)))


def _plot(path: Path, run: StoredRun, metric: Metric) -> None:
    """Plot a metric. Matplotlib is imported here, since it is slow to import."""
    from sdlab.report.plots import plot_metric
    from sdlab.report.ranking import plot_ranking

    draw = plot_ranking if is_crowded(run.rows) else plot_metric
    with _drawing(path):
        draw(path, run.plan, metric, run.rows, run.real.get(metric.name, [None])[0])


def _plot_error_path(path: Path, run: StoredRun) -> None:
    from sdlab.report.error_path import plot_error_path

    with _drawing(path):
        plot_error_path(path, run.plan, run.rows)


def _plot_trade_off(path: Path, run: StoredRun, pair: Pair) -> None:
    from sdlab.report.trade_off import plot_trade_off

    with _drawing(path):
        plot_trade_off(path, run.plan, *pair, run.rows)


@contextmanager
def _drawing(path: Path) -> Iterator[None]:
    """Report values that cannot be drawn, such as 1e308 on a logarithmic axis. Matplotlib raises anything on those.

    What Matplotlib and NumPy warn of is not printed.

    Raises:
        RunError: instead of any other error.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (ArithmeticError, ValueError, TypeError, LookupError, MemoryError) as error:
        raise RunError(f"{path} cannot be drawn: {type(error).__name__}: {error}") from error


def _picture_paths(folder: Path, plan: Plan, row: Row) -> list[Path]:
    """One file per picture of a cell, named after the cell, the beginning of its key in table.csv, and the seed.

    The key distinguishes cells whose labels differ in signs, in letter case or far from their beginning.
    """
    name = f"{file_words(row.cell.label, 160)}-{row.key[:8]}"
    return [folder / f"{name}-{plan.seed_of(row.cell) + i}.png" for i in range(plan.images_of(row.cell))]


def _write_pictures(paths: list[Path], run: StoredRun, row: Row) -> None:
    found = run.pictures(row)
    if found is not None:
        make_folder(paths[0].parent)
        for path, picture in zip(paths, found[1], strict=False):  # a damaged store may have another number of them
            with replacing(path) as draft:
                Image.fromarray(picture).save(draft, format="PNG")


def _draw_sheet(path: Path, run: StoredRun) -> None:
    prompts: list[str] = []
    inputs = run.inputs()
    strips = [] if inputs is None else [Strip(("input",), inputs)]
    grids = len({row.cell.grid.label for row in run.rows}) > 1
    for row in run.rows:
        found = run.pictures(row)
        prompts = prompts or (found[0] if found else [])
        strips.append(Strip(_label(row.cell, grids), found[1] if found else None, row.reason or "no pictures"))
    with _drawing(path):
        contact_sheet(path, prompts, strips)


def _label(cell: Cell, grid: bool) -> tuple[str, ...]:
    guidance = "no guidance" if cell.guidance.name == "none" else cell.guidance.label
    rest = (guidance, *([cell.grid.label] if grid else []), cell.length)
    strength = () if cell.strength is None else (f"strength {cell.strength:g}",)
    images = () if cell.images is None else (f"{cell.images} images",)
    seed = () if cell.seed is None else (f"seed {cell.seed}",)
    return (cell.sampler.label, *rest, *strength, *images, *seed)
