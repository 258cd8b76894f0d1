"""What a run directory shows: tables, plots and a contact sheet, all drawn from its store alone."""

from __future__ import annotations

import json
from pathlib import Path

from rich.console import Console

from sdlab.errors import UsageError
from sdlab.files import replacing
from sdlab.metrics import METRICS
from sdlab.sweep.cell import Cell, digest
from sdlab.sweep.contact_sheet import Strip, contact_sheet
from sdlab.sweep.plan import Plan
from sdlab.sweep.plots import plot_metric
from sdlab.sweep.run import REAL, STORE, read_plan
from sdlab.sweep.store import Row, Store
from sdlab.sweep.table import Table, csv_text, make_table

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
        plots = {metric: directory / f"{metric}.png" for metric in plan.metrics}
        files = [directory / name for name in ("table.csv", "table.md", "contact_sheet.png")] + list(plots.values())
        shown = digest([plan.model_dump_json(), [(row.key, row.created) for row in rows]])
        if redraw or store.note(_DRAWN) != shown or not all(file.is_file() for file in files):
            _write(files[0], csv_text(plan, rows))
            _write(files[1], table.markdown())
            _draw_sheet(files[2], store, rows)
            for metric, path in plots.items():
                plot_metric(path, plan, METRICS[metric], rows, real.get(metric, [None])[0])
            store.set_note(_DRAWN, shown)
    _show(plan, table, console)
    return files


def _show(plan: Plan, table: Table, console: Console) -> None:
    for note in plan.notes:
        console.print(f"note: {note}", highlight=False, markup=False)
    console.print(table.rich())


def _write(path: Path, text: str) -> None:
    with replacing(path) as draft:
        draft.write_text(text, encoding="utf-8")


def _draw_sheet(path: Path, store: Store, rows: list[Row]) -> None:
    prompts: list[str] = []
    strips = []
    grids = len({row.cell.grid.label for row in rows}) > 1
    for row in rows:
        found = store.thumbnails(row.key)
        prompts = prompts or (found[0] if found else [])
        strips.append(Strip(_label(row.cell, grids), found[1] if found else None, row.reason or "no pictures"))
    contact_sheet(path, prompts, strips)


def _label(cell: Cell, grid: bool) -> tuple[str, ...]:
    steps = f"{cell.steps} step{'s' * (cell.steps != 1)}"
    guidance = "no guidance" if cell.guidance.name == "none" else cell.guidance.label
    rest = (guidance, *([cell.grid.label] if grid else []), steps)
    return (cell.sampler.label, *rest)
