"""The plan of a sweep, with all defaults filled in and all cells listed."""

from __future__ import annotations

import itertools
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, PrivateAttr

import samplers
from samplers.checks import did_you_mean
from sdlab import plugins
from sdlab.backends.base import Opened
from sdlab.backends.registry import open_model
from sdlab.metrics import Metric, MetricFiles, labelled
from sdlab.metrics.base import units_of
from sdlab.metrics.lab import world_of
from sdlab.picture import Fit
from sdlab.registry import Mistake, Registry
from sdlab.sweep.axes import GRID, GUIDANCE, SAMPLER
from sdlab.sweep.cell import Cell, Choice, canonical, digest
from sdlab.sweep.document import Cells, Document, Exclude, Extra, Image, Prompt, Until, read, read_extra
from sdlab.sweep.pairs import pairs
from sdlab.sweep.passes import sigmas_of, steps_within
from sdlab.sweep.prompts import prompt_set
from sdlab.system import resources
from sdlab.system.device import resolve_dtype
from sdlab.system.errors import UsageError
from sdlab.system.limits import GALLERY
from sdlab.system.reading import read_toml

# Incremented when an unchanged plan would give other values than before, so that old rows are not reused.
_NUMBERS = 1


class Pictures(BaseModel):
    """The input pictures of image-to-image. Prompt i has a file, no picture, or picture i of a set."""

    model_config = ConfigDict(frozen=True)
    files: tuple[str | None, ...] = ()  # as many as prompts
    captions: tuple[str | None, ...] = ()  # of the files, if one is known
    set: str | None = None
    fit: Fit = "crop"

    def complete(self) -> dict[str, Any]:
        """All settings except the content of the files."""
        captions = {"captions": self.captions} if self.captions else {}  # so that old rows stay valid
        return {"set": self.set, "fit": self.fit, "files": [file is not None for file in self.files], **captions}


class Plan(BaseModel):
    """The plan of a sweep. Image i has prompt i mod P of the P prompts and seed `seed` + i, in every cell."""

    model_config = ConfigDict(frozen=True)
    name: str
    model: str  # the label of the model in tables: its name, and the options that change it
    source: Choice  # the name, file or folder of the model, and its options
    prompts: tuple[str, ...]  # empty for a model that ignores them
    negative: str
    images: int  # per cell; the most if `until` is set or if they are an axis
    until: Until | None = None  # when a cell has enough images
    seed: int
    batch: int  # images per batch; no value depends on it
    timing_rounds: int = 0  # in which all cells are timed in turn
    dtype: str  # of the networks
    compile: bool = False  # the U-Net
    device: str  # resolved: never "auto"; the first, if there are several
    devices: tuple[str, ...] = ()  # all of them, if there are several
    metrics: tuple[str, ...]
    metric_files: MetricFiles = MetricFiles()
    reference_steps: int = 500  # of the fine run of `reference_error`
    pictures: Pictures | None = None
    compare: str | None = None  # the setting in which compared cells differ, like "sampler.variant"
    cells: tuple[Cell, ...]
    notes: tuple[str, ...] = ()  # for the user, for example on cells listed twice
    _opened: Opened | None = PrivateAttr(None)

    @property
    def opened(self) -> Opened:
        """The model with its headers and configuration read. A plan from a store opens it on first use."""
        if self._opened is None:
            self._opened = open_model(self.source.name, self.source.options, Path())
        return self._opened

    @property
    def measures(self) -> tuple[Metric, ...]:
        """The metrics, labelled for the files of this plan."""
        return tuple(labelled(name, self.metric_files) for name in self.metrics)

    def images_of(self, cell: Cell) -> int:
        """The images of a cell, at most."""
        return self.images if cell.images is None else cell.images

    def seed_of(self, cell: Cell) -> int:
        """The seed of image 0 of a cell."""
        return self.seed if cell.seed is None else cell.seed

    @property
    def seeds(self) -> str:
        """The seeds of all cells as text: `"seeds 0 to 127"`."""
        firsts = sorted({self.seed_of(cell) for cell in self.cells}) or [self.seed]
        if len(firsts) > 1:
            return f"{len(firsts)} sets of seeds from {firsts[0]} to {firsts[-1] + self.images - 1}"
        return f"seeds {firsts[0]} to {firsts[0] + self.images - 1}"

    @property
    def fewest(self) -> int:
        """The images of the cell with the fewest."""
        return min((self.images_of(cell) for cell in self.cells), default=self.images)

    @property
    def looks(self) -> tuple[int, ...]:
        """The images per cell at which cells are compared: once, or after each round of a sweep that stops early."""
        return (self.images,) if self.until is None else self.until.looks

    @property
    def count(self) -> str:
        """The images per cell as text: `"128"` or `"64 to 2048"`."""
        return " to ".join(map(str, dict.fromkeys((min(self.looks[0], self.fewest), self.images))))

    @property
    def units(self) -> tuple[int, ...]:
        """The unit of each image, numbered from 0. Images of one prompt are one unit of the statistics."""
        return units_of(self.prompts, self.images)

    @property
    def captions(self) -> tuple[str, ...]:
        """The caption of each prompt's input picture; empty if one is unknown."""
        if self.pictures is None:
            return ()
        if self.pictures.set is not None:
            return tuple(prompt_set(self.pictures.set, len(self.prompts)))
        known = tuple(caption for caption in self.pictures.captions if caption is not None)
        return known if len(known) == len(self.prompts) else ()

    def starts_from_a_picture(self, i: int) -> bool:
        """Whether image i has an input picture. Otherwise it is drawn from its prompt alone."""
        pictures = self.pictures
        return pictures is not None and (pictures.set is not None or pictures.files[i % len(self.prompts)] is not None)

    def key(self, cell: Cell, model: str) -> str:
        """The key of a cell's row in the store, a hash of everything that determines its values.

        `model` identifies the model and all other files, down to their content (`identity.identify`).
        """
        pictures = {} if self.pictures is None else {"image": self.pictures.complete()}
        compiled = {"compile": True} if self.compile else {}
        # Only what differs from the default, so that old rows stay valid.
        fine = {"reference_steps": self.reference_steps} if self.reference_steps != 500 else {}
        return digest(
            {
                **pictures,
                **compiled,
                **(fine if "reference_error" in self.metrics else {}),
                "numbers": _NUMBERS,
                "model": model,
                "prompts": self.prompts,
                "negative": self.negative,
                "images": self.images_of(cell) if self.until is None else self.looks,
                "seed": self.seed_of(cell),
                "dtype": self.dtype,
                "device": self.device.partition(":")[0],
                "metrics": sorted(self.metrics),
                "cell": cell.complete(),
            }
        )


def load_plan(path: str | Path, overrides: Mapping[str, Any] | None = None, elsewhere: bool = False) -> Plan:
    """Read a sweep file. `overrides`, for example from the command line, replace its top-level values.

    If cells run `elsewhere`, this machine need not have their device.

    Raises:
        UsageError: the file is missing, is not TOML, or has mistakes. The message has one line per mistake.
    """
    overrides = dict(overrides or {})
    file, raw = read_sweep(path)
    return plan_of(file, raw | overrides, overrides, elsewhere)


def read_sweep(path: str | Path) -> tuple[Path, dict[str, Any]]:
    """The sweep file at `path`, or the shipped one of that name, and the tables in it.

    Raises:
        UsageError: the file is missing or is not TOML.
    """
    file = resources.find(path)
    return file, _parse(file)


def plan_of(file: Path, raw: dict[str, Any], overrides: Container[str] = (), elsewhere: bool = False) -> Plan:
    """The plan of a sweep file with these tables. Mistakes in the keys of `overrides` are those of options.

    Raises:
        UsageError: there are mistakes. The message has one line per mistake.
    """
    plugins.discover()
    with plugins.beside(file.resolve().parent):
        document, mistakes = read(raw, file.resolve().parent, elsewhere)
    if document is not None:
        cells, notes, mistakes = _expand(document, document.model.levels)
        if not cells and not mistakes:
            mistakes = [("cells", "no cells are left; add [cells] or [[extra]], or exclude fewer")]
        if document.compare is not None and not mistakes and not pairs(cells, document.compare):
            mistakes = [("compare", f"no two cells differ only in {document.compare}")]
        if not mistakes:
            return _plan(file, document, cells, notes)
    raise UsageError(*(f"{place(file, key, overrides)}: {text}" for key, text in mistakes))


def cell_of(raw: Mapping[str, Any], levels: samplers.Levels, folder: Path) -> Cell:
    """The cell in `raw`, which is written like a complete `[[extra]]` of a sweep file in `folder`.

    Raises:
        UsageError: there are mistakes, or no number of steps fits in its budget.
    """
    with plugins.beside(folder):
        one, mistakes = read_extra(raw, levels, folder)
    if one is not None:
        try:
            return _cell(one, levels)
        except ValueError as error:
            mistakes = [("passes", str(error))]
    raise UsageError(*(f"{key}: {text}" for key, text in mistakes))


def _parse(file: Path) -> dict[str, Any]:
    if not file.exists():
        near = did_you_mean(file.name, [other.name for other in file.parent.glob("*.toml")])
        raise UsageError(f"{file}: no such file{near}")
    return read_toml(file)


def place(file: Path, key: str, overrides: Container[str] = ()) -> str:
    """The place of a key for messages: an option, or the file and the key in it."""
    return f"--{key}" if key in overrides else f"{file}: {key}"


def _name(file: Path) -> str:
    """The name of the run directory if the file does not set one."""
    if file.stem.startswith("."):  # also "." and ".."
        raise UsageError(f'{file}: cannot name the run directory after this file; add `name` to it, like "my_sweep"')
    return file.stem


def _plan(file: Path, document: Document, cells: list[Cell], notes: list[str]) -> Plan:
    folder, opened, prompts = file.resolve().parent, document.model, tuple[Prompt, ...]()
    ignored: dict[str, Any] = {key: Document.model_fields[key].default for key in sorted(opened.ignores)}
    for key, default in ignored.items():
        if (value := getattr(document, key)) != default:
            notes.append(f"model {opened.name} ignores {f'dtype {value}' if key == 'dtype' else key}")
    notes += opened.notes
    images = max(document.most_images if cell.images is None else cell.images for cell in cells)
    if not document.metrics and images > GALLERY:
        notes.append(f"without metrics, the first {GALLERY} pictures of each cell are kept")
    document, negative = document.model_copy(update=ignored), ""
    if document.prompts is not None:
        prompts, negative = document.prompts.read(images), document.prompts.negative
    plan = Plan(
        name=document.name or _name(file),
        model=opened.label,
        source=Choice(name=opened.name, options=dict(opened.options)),
        prompts=tuple(prompt.text for prompt in prompts),
        negative=negative,
        images=images,
        until=document.images if isinstance(document.images, Until) else None,
        seed=document.seed,
        batch=document.batch,
        timing_rounds=document.timing_rounds,
        dtype=resolve_dtype(document.dtype, document.device[0]),
        compile=document.compile,
        device=document.device[0],
        devices=tuple(document.device) if len(document.device) > 1 else (),
        metrics=tuple(dict.fromkeys(document.metrics)),
        metric_files=MetricFiles(
            world=document.metric_files.world or world_of([prompt.text for prompt in prompts]),
            **{key: resources.near(path, folder) for key, path in document.metric_files.given.items()},
        ),
        reference_steps=document.reference_steps,
        pictures=_pictures(document, prompts, folder),
        compare=document.compare,
        cells=tuple(cells),
        notes=tuple(notes),
    )
    plan._opened = opened
    return plan


def _pictures(document: Document, prompts: Sequence[Prompt], folder: Path) -> Pictures | None:
    image = document.image or Image()
    paths = [image.init or prompt.image for prompt in prompts]
    if image.set is None and not any(paths):
        return None
    captions = tuple(image.caption if image.init else prompt.caption for prompt in prompts)
    return Pictures(
        files=tuple(path and resources.near(path, folder) for path in paths),
        captions=captions if any(captions) else (),
        set=image.set,
        fit=image.fit,
    )


def _expand(document: Document, levels: samplers.Levels) -> tuple[list[Cell], list[str], list[Mistake]]:
    """The cells in the order of the file, each once, then notes, then mistakes in budgets and strengths."""
    grid, notes = document.cells, []
    crossed = list(_crossed(grid)) if grid else []
    for i, exclusion in enumerate(document.exclude):
        kept = [one for one in crossed if not _matches(one, exclusion)]
        if len(kept) == len(crossed):
            notes.append(f"exclude[{i}] matches no cell")
        crossed = kept
    cells, mistakes = list[Cell](), list[Mistake]()
    single = [(f"extra[{i}]", one) for i, one in enumerate(document.extra)]
    for place, one in [*(("cells", one) for one in crossed), *single]:
        key = "passes"
        try:
            cells.append(cell := _cell(one, levels))
            if cell.strength is not None:
                key = "strength"
                sigmas_of(cell, levels)
        except ValueError as error:
            mistakes.append((f"{place}.{key}", str(error)))
    unique: dict[str, Cell] = {}
    for cell in cells:
        unique.setdefault(canonical(cell.complete()), cell)
    if twice := len(cells) - len(unique):
        notes.append(f"{twice} cell{'s are' if twice > 1 else ' is'} listed twice and run once")
    return list(unique.values()), notes, list(dict.fromkeys(mistakes))


def _crossed(grid: Cells) -> Iterator[Extra]:
    """Every combination, as if it had been written out as an extra cell."""
    axes = {key: values for key in Extra.model_fields if (values := getattr(grid, key)) is not None}
    for combination in itertools.product(*axes.values()):
        yield Extra.model_construct(**dict(zip(axes, combination, strict=True)))


def _cell(one: Extra, levels: samplers.Levels) -> Cell:
    """The cell, with as many steps as fit in its budget of passes if it has one.

    Raises:
        ValueError: no number of steps fits.
    """
    cell = Cell(
        sampler=one.sampler,
        grid=one.grid,
        guidance=one.guidance,
        steps=one.steps or 1,
        strength=one.strength,
        budget=one.passes,
        images=one.images,
        seed=one.seed,
    )
    return cell if one.passes is None else cell.model_copy(update={"steps": steps_within(one.passes, cell, levels)})


def _matches(cell: Extra, exclusion: Exclude) -> bool:
    return (
        _any(SAMPLER, cell.sampler, exclusion.sampler)
        and _any(GRID, cell.grid, exclusion.grid)
        and _any(GUIDANCE, cell.guidance, exclusion.guidance)
        and (exclusion.passes is None or cell.passes in exclusion.passes)
        and (exclusion.steps is None or cell.steps in exclusion.steps)
        and (exclusion.strength is None or cell.strength in exclusion.strength)
        and (exclusion.images is None or cell.images in exclusion.images)
        and (exclusion.seed is None or cell.seed in exclusion.seed)
    )


def _any(axis: Registry, choice: Choice, wanted: Iterable[Choice] | None) -> bool:
    """Whether the choice has the name and all given options of one of those wanted."""
    has = choice.complete(axis)
    return wanted is None or any(one.name == choice.name and {**has, **one.options} == has for one in wanted)
