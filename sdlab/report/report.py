"""What a run directory shows: tables, plots and a contact sheet, all drawn from its store alone."""

from __future__ import annotations

import json
import re
from pathlib import Path

from PIL import Image
from rich.console import Console

from sdlab.report.contact_sheet import Strip, contact_sheet
from sdlab.report.differences import make_differences
from sdlab.report.plots import plot_metric
from sdlab.report.ranking import is_crowded, plot_ranking
from sdlab.report.table import Table, csv_text, make_table
from sdlab.report.trade_off import plot_trade_off, trade_offs
from sdlab.sweep.cell import Cell, digest
from sdlab.sweep.plan import Plan
from sdlab.sweep.run import REAL, STORE, read_plan
from sdlab.sweep.store import Row, Store
from sdlab.system.errors import UsageError
from sdlab.system.files import make_folder, replacing

_DRAWN = "report"


def report(directory: Path, console: Console, redraw: bool = True) -> list[Path]:
    """Print the table of a run directory and write its files; returns their paths.

    With `redraw` false the files are left alone when they already show what is in the store.

    Raises:
        UsageError: the directory holds no results.
        RunError: the store is damaged, or a file cannot be written.
    """
    if not (directory / STORE).is_file():
        raise UsageError(f"{directory}: there are no results there ({STORE} is missing)")
    with Store(directory / STORE) as store:
        plan, keys = read_plan(store)
        rows = store.rows(keys)
        real = json.loads(store.note(REAL) or "{}")
        table = make_table(plan, rows, real)
        differences = make_differences(plan, rows)
        plots = [(metric, directory / f"{metric.name}.png") for metric in plan.measures]
        trades = [(pair, directory / f"{pair[0].name}_for_{pair[1].name}.png") for pair in trade_offs(plan)]
        sheet = directory / "contact_sheet.png"
        drawn = plan.own is None or any(store.thumbnails(row.key) for row in rows)
        files = [directory / "table.csv", directory / "table.md", *[sheet] * drawn]
        files += [path for _, path in (*plots, *trades)]
        files += [directory / "differences.md"] * (differences is not None)
        if not plan.metrics:
            files += _picture_files(directory, plan, rows)
        shown = digest([plan.model_dump_json(), [(row.key, row.created) for row in rows]])
        if redraw or store.note(_DRAWN) != shown or not all(file.is_file() for file in files):
            _write(files[0], csv_text(plan, rows))
            _write(files[1], table.markdown())
            if drawn:
                _draw_sheet(sheet, plan, store, rows)
            if differences is not None:
                _write(directory / "differences.md", differences.markdown())
            draw = plot_ranking if is_crowded(rows) else plot_metric
            for metric, path in plots:
                draw(path, plan, metric, rows, real.get(metric.name, [None])[0])
            for pair, path in trades:
                plot_trade_off(path, plan, *pair, rows)
            if not plan.metrics:
                _write_pictures(directory, plan, store, rows)
            store.set_note(_DRAWN, shown)
    _show(plan, [table, *([] if differences is None else [differences])], console)
    return files


def _show(plan: Plan, tables: list[Table], console: Console) -> None:
    for note in plan.notes:
        console.print(f"note: {note}", highlight=False, markup=False)
    for table in tables:
        console.print(table.rich())


def _write(path: Path, text: str) -> None:
    with replacing(path) as draft:
        draft.write_text(text, encoding="utf-8")


def _picture_files(directory: Path, plan: Plan, rows: list[Row]) -> list[Path]:
    """Where the pictures of a sweep without metrics go, cell by cell."""
    names = [re.sub(r"[^\w.=]+", "-", row.cell.label) for row in rows if row.ok]
    return [directory / "pictures" / f"{name}-{plan.seed + i}.png" for name in names for i in range(plan.images)]


def _write_pictures(directory: Path, plan: Plan, store: Store, rows: list[Row]) -> None:
    make_folder(directory / "pictures")
    found = (store.thumbnails(row.key) for row in rows if row.ok)
    pictures = (picture for one in found if one is not None for picture in one[1])
    for path, picture in zip(_picture_files(directory, plan, rows), pictures, strict=True):
        with replacing(path) as draft:
            Image.fromarray(picture).save(draft, format="PNG")


def _draw_sheet(path: Path, plan: Plan, store: Store, rows: list[Row]) -> None:
    prompts: list[str] = []
    inputs = store.inputs() if plan.pictures is not None else None
    strips = [] if inputs is None else [Strip(("input",), inputs)]
    grids = len({row.cell.grid.label for row in rows}) > 1
    for row in rows:
        found = store.thumbnails(row.key)
        prompts = prompts or (found[0] if found else [])
        strips.append(Strip(_label(row.cell, grids), found[1] if found else None, row.reason or "no pictures"))
    contact_sheet(path, prompts, strips)


def _label(cell: Cell, grid: bool) -> tuple[str, ...]:
    guidance = "no guidance" if cell.guidance.name == "none" else cell.guidance.label
    rest = (guidance, *([cell.grid.label] if grid else []), cell.length)
    strength = () if cell.strength is None else (f"strength {cell.strength:g}",)
    return (cell.sampler.label, *rest, *strength)
