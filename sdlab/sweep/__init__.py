"""Sweeps: a plan (a TOML file) is run cell by cell into a store, from which the report is drawn."""

from sdlab.sweep.cell import Cell, Choice
from sdlab.sweep.command import sweep
from sdlab.sweep.plan import Plan, load_plan
from sdlab.sweep.report import report
from sdlab.sweep.results import Bench, CellFailed, CellResult
from sdlab.sweep.run import SweepOutcome, run_sweep
from sdlab.sweep.store import Row, Store

__all__ = [
    "Bench",
    "Cell",
    "CellFailed",
    "CellResult",
    "Choice",
    "Plan",
    "Row",
    "Store",
    "SweepOutcome",
    "load_plan",
    "report",
    "run_sweep",
    "sweep",
]
