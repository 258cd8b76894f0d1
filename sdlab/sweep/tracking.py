"""The cells of a sweep in an experiment tracker: each is a run, whose step is its network passes per image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sdlab.sweep.cell import Cell
from sdlab.sweep.plan import Plan
from sdlab.sweep.results import CellResult
from sdlab.system.errors import SdlabError
from sdlab.system.files import file_words
from sdlab.system.output import remark
from sdlab.trackers import open_tracker


@dataclass
class CellLog:
    """Shows finished cells in a tracker. If it does not start, a warning says so once, and the sweep continues."""

    tracker: str
    plan: Plan
    directory: Path
    failed: bool = False

    def __call__(self, cell: Cell, result: CellResult) -> None:
        """Add a finished cell: its settings, metrics, costs and first pictures."""
        if self.failed:
            return
        folder = self.directory / self.tracker / file_words(cell.label, 160)
        settings = {"model": self.plan.model, **_flat(cell.complete())}
        step = max(1, round(result.network_passes))
        try:
            run = open_tracker(self.tracker, self.plan.name, cell.label, folder, settings)
        except SdlabError as error:
            self.failed = True
            remark(f"warning: {error}")
            return
        errors = {f"{name}_stderr": value for name, value in result.stderr.items()}
        costs = {"network_passes": result.network_passes, "seconds_per_image": result.times.seconds}
        run.log({**result.metrics, **errors, **costs}, step)
        if len(result.thumbnails):
            strip = torch.from_numpy(np.concatenate(list(result.thumbnails), axis=1))
            run.picture("pictures", strip.permute(2, 0, 1), step)
        run.close()


def _flat(value: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Nested settings by name: `{"guidance.scale": 3.0}`."""
    found: dict[str, Any] = {}
    for key, one in value.items():
        found |= _flat(one, f"{before}{key}.") if isinstance(one, Mapping) else {f"{before}{key}": one}
    return found
