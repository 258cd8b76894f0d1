"""A sweep as it will run: every default filled in, every cell listed, nothing left to interpret."""

from __future__ import annotations

import itertools
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from sdlab import resources
from sdlab.errors import UsageError, did_you_mean
from sdlab.sweep.axes import GRID, GUIDANCE, SAMPLER, Axis
from sdlab.sweep.cell import Cell, Choice, canonical, digest
from sdlab.sweep.document import Document, Exclude, read

# Raised when an unchanged plan would give other numbers than before, so that old rows are not taken for new ones.
_NUMBERS = 1


class Plan(BaseModel):
    """What a sweep runs. Image i has prompt i mod P of the P prompts and seed `seed` + i, in every cell."""

    model_config = ConfigDict(frozen=True)
    name: str
    model: str  # a name, or a folder
    prompts: tuple[str, ...]
    negative: str
    images: int  # a cell
    seed: int
    batch: int  # how many images at once; no number depends on it
    dtype: str
    device: str  # resolved: never "auto"
    metrics: tuple[str, ...]
    cells: tuple[Cell, ...]
    notes: tuple[str, ...] = ()  # what the reader of the file should know: cells that were written twice, and the like

    def key(self, cell: Cell, model: str) -> str:
        """The name of a cell's row in the store: a hash of all that determines its numbers.

        `model` identifies the model down to its weights (a digest of them, say).
        """
        return digest(
            {
                "numbers": _NUMBERS,
                "model": model,
                "prompts": self.prompts,
                "negative": self.negative,
                "images": self.images,
                "seed": self.seed,
                "dtype": self.dtype,
                "device": self.device.partition(":")[0],
                "metrics": sorted(self.metrics),
                "cell": cell.complete(),
            }
        )


def load_plan(path: str | Path, overrides: Mapping[str, Any] | None = None) -> Plan:
    """Read a sweep file. `overrides` (from the command line, say) replace its top-level values.

    Raises:
        UsageError: no such file, no TOML, or mistakes in it; the message has a line for each.
    """
    file, overrides = resources.find(path), dict(overrides or {})
    raw = _parse(file) | overrides
    document, mistakes = read(raw, file.resolve().parent)
    if document is not None:
        cells, notes = _expand(document)
        if cells:
            return _plan(file, document, cells, notes)
        mistakes = [("cells", "no cell is left: give [cells] or [[extra]], or exclude less")]
    raise UsageError("\n".join(f"{_place(file, key, overrides)}: {text}" for key, text in mistakes))


def _parse(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        near = did_you_mean(file.name, [other.name for other in file.parent.glob("*.toml")])
        raise UsageError(f"{file}: there is no such file{near}") from None
    except OSError as error:
        raise UsageError(f"{file}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"{file}: is not UTF-8 text, as TOML must be") from None
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{file}: is not TOML: {error}") from None


def _place(file: Path, key: str, overrides: Mapping[str, Any]) -> str:
    return f"--{key}" if key in overrides else f"{file}: {key}"


def _plan(file: Path, document: Document, cells: list[Cell], notes: list[str]) -> Plan:
    return Plan(
        name=document.name or file.stem,
        model=document.model,
        prompts=document.prompts.read(document.images),
        negative=document.prompts.negative,
        images=document.images,
        seed=document.seed,
        batch=document.batch,
        dtype=document.dtype,
        device=document.device,
        metrics=tuple(dict.fromkeys(document.metrics)),
        cells=tuple(cells),
        notes=tuple(notes),
    )


def _expand(document: Document) -> tuple[list[Cell], list[str]]:
    """The cells in the order of the file, each once, and what is worth a note."""
    grid = document.cells
    crossed = itertools.product(grid.sampler, grid.grid, grid.guidance, grid.steps) if grid else ()
    cells = [Cell(sampler=a, grid=b, guidance=c, steps=n) for a, b, c, n in crossed]
    notes = []
    for i, exclusion in enumerate(document.exclude):
        kept = [cell for cell in cells if not _matches(cell, exclusion)]
        if len(kept) == len(cells):
            notes.append(f"exclude[{i}] matches no cell")
        cells = kept
    cells += [Cell(sampler=e.sampler, grid=e.grid, guidance=e.guidance, steps=e.steps) for e in document.extra]
    unique: dict[str, Cell] = {}
    for cell in cells:
        unique.setdefault(canonical(cell.complete()), cell)
    if twice := len(cells) - len(unique):
        notes.append(f"{twice} cell{'s' * (twice > 1)} written twice, run once")
    return list(unique.values()), notes


def _matches(cell: Cell, exclusion: Exclude) -> bool:
    return (
        _any(SAMPLER, cell.sampler, exclusion.sampler)
        and _any(GRID, cell.grid, exclusion.grid)
        and _any(GUIDANCE, cell.guidance, exclusion.guidance)
        and (exclusion.steps is None or cell.steps in exclusion.steps)
    )


def _any(axis: Axis, choice: Choice, wanted: Iterable[Choice] | None) -> bool:
    """Whether the choice has the name and the given options of one of those wanted."""
    has = choice.complete(axis)
    return wanted is None or any(one.name == choice.name and {**has, **one.options} == has for one in wanted)
