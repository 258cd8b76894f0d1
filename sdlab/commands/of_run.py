"""A cell of a run as a request: one of its images, drawn as `sdlab generate` would."""

from __future__ import annotations

import re
from pathlib import Path

from sdlab.commands.factors import choice_text
from sdlab.commands.inline_model import model_text
from sdlab.commands.request import Request
from sdlab.report.stored_run import StoredRun, opened_run
from sdlab.sweep.run import STORE
from sdlab.sweep.store import Row
from sdlab.system.errors import UsageError

_KEY = re.compile(r"[0-9a-f]{4,16}")
_FILES = ("weights", "vocab", "merges")


def is_cell(path: Path) -> bool:
    """Whether a path names a cell, like `runs/cfg_vs_steps:3`."""
    folder, colon, _ = str(path).rpartition(":")
    return bool(colon) and not path.exists() and (Path(folder) / STORE).is_file()


def request_of(path: Path, image: int) -> Request:
    """The request of an image of a cell. The cell is a row of the run's table, counted from 1, or begins its key.

    Raises:
        UsageError: there is no such cell or image, or its image cannot be drawn alone.
        RunError: the store is damaged.
    """
    folder, _, name = str(path).rpartition(":")
    with opened_run(Path(folder)) as run:
        plan, cell = run.plan, _row(path, run, name).cell
    images = plan.images_of(cell)
    if not 0 <= image < images:
        raise UsageError(f"--image must be from 0 to {images - 1}, the images of {folder}, got {image}")
    if plan.pictures is not None and plan.pictures.set is not None:
        raise UsageError(f"{path}: starts from the pictures of set {plan.pictures.set}, which are no files")
    if not plan.prompts:
        raise UsageError(f"{path}: {plan.model} draws without prompts; only cells of text-to-image models are compared")
    model, options = plan.source.name, dict(plan.source.options)
    files = {key: options.pop(key) for key in _FILES if key in options}
    side = options.pop("size", None)  # of a pipeline of diffusers
    start = None if plan.pictures is None else plan.pictures.files[image % len(plan.prompts)]
    return Request(
        prompt=plan.prompts[image % len(plan.prompts)],
        negative=plan.negative,
        model=model_text(model, options),
        init_image=start,
        strength=None if start is None else cell.strength,
        fit=None if start is None or plan.pictures is None else plan.pictures.fit,
        size=None if side is None else (side, side),
        sampler=choice_text(cell.sampler.name, cell.sampler.options),
        grid=choice_text(cell.grid.name, cell.grid.options),
        steps=cell.steps,
        guidance=choice_text(cell.guidance.name, cell.guidance.options),
        seed=plan.seed_of(cell) + image,
        dtype=plan.dtype,
        **files,
    )


def _row(path: Path, run: StoredRun, name: str) -> Row:
    """The row of a number or a key.

    Raises:
        UsageError: there is none, or there are several.
    """
    if name.isascii() and name.isdigit() and 1 <= int(name[:9]) <= len(run.rows):
        return run.rows[int(name[:9]) - 1]
    found = [row for row in run.rows if _KEY.fullmatch(name) and row.key.startswith(name)]
    if len(found) != 1:
        what = "several cells begin with this key" if found else f"cells are numbered from 1 to {len(run.rows)}"
        raise UsageError(f"{path}: no such cell; {what}, or give a key of table.csv")
    return found[0]
