"""A sweep as it will run: every default filled in, every cell listed, nothing left to interpret."""

from __future__ import annotations

import itertools
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

import samplers
from samplers.checks import did_you_mean
from sdlab import plugins
from sdlab.backends import custom as own_pipeline
from sdlab.backends.custom_model import OwnModel
from sdlab.metrics import Metric, MetricFiles, labelled
from sdlab.picture import Fit
from sdlab.sweep.axes import GRID, GUIDANCE, LEVELS, SAMPLER, Axis, Mistake
from sdlab.sweep.cell import Cell, Choice, canonical, digest
from sdlab.sweep.cost import steps_within
from sdlab.sweep.document import Cells, Document, Exclude, Extra, Image, Prompt, read
from sdlab.sweep.pairs import pairs
from sdlab.system import resources
from sdlab.system.errors import UsageError
from sdlab.weights.locate import ModelSource

# Raised when an unchanged plan would give other numbers than before, so that old rows are not taken for new ones.
_NUMBERS = 1


class Pictures(BaseModel):
    """What image-to-image starts from: for each prompt a file or nothing, or picture i of a set for image i."""

    model_config = ConfigDict(frozen=True)
    files: tuple[str | None, ...] = ()  # as many as prompts
    set: str | None = None
    fit: Fit = "crop"

    def complete(self) -> dict[str, Any]:
        """All but the content of the files."""
        return {"set": self.set, "fit": self.fit, "files": [file is not None for file in self.files]}


class Plan(BaseModel):
    """What a sweep runs. Image i has prompt i mod P of the P prompts and seed `seed` + i, in every cell."""

    model_config = ConfigDict(frozen=True)
    name: str
    model: str  # a name, a file or a folder; of a model of one's own the name with its options
    own: Choice | None = None  # a model of one's own or an exact one, where that is swept
    model_files: dict[str, str] = {}  # weights, vocab and merges, where the sweep says so
    prompts: tuple[str, ...]  # none for a model of one's own, which has its own conditions
    negative: str
    images: int  # a cell
    seed: int
    batch: int  # how many images at once; no number depends on it
    dtype: str  # of the networks; a model of one's own is given float32
    compile: bool = False  # the U-Net
    device: str  # resolved: never "auto"
    metrics: tuple[str, ...]
    metric_files: MetricFiles = MetricFiles()
    pictures: Pictures | None = None
    compare: str | None = None  # what cells differ in that the report compares pair by pair, like "sampler.variant"
    cells: tuple[Cell, ...]
    notes: tuple[str, ...] = ()  # what the reader of the file should know: cells that were written twice, and the like

    @property
    def source(self) -> ModelSource:
        """What the model loader takes."""
        return ModelSource(self.model, **self.model_files)

    @property
    def own_model(self) -> OwnModel | None:
        """The model of one's own, built; None for a text-to-image model."""
        return None if self.own is None else _built(self.own)

    @property
    def levels(self) -> samplers.Levels:
        """The noise levels of the model."""
        return _levels(self.own)

    @property
    def measures(self) -> tuple[Metric, ...]:
        """The metrics with the labels they have here."""
        return tuple(labelled(name, self.metric_files) for name in self.metrics)

    def starts_from_a_picture(self, i: int) -> bool:
        """Whether image i does; if not it is drawn from its prompt alone."""
        pictures = self.pictures
        return pictures is not None and (pictures.set is not None or pictures.files[i % len(self.prompts)] is not None)

    def key(self, cell: Cell, model: str) -> str:
        """The name of a cell's row in the store: a hash of all that determines its numbers.

        `model` identifies the model, and all other files that are read, down to what is in them (a digest, say).
        """
        pictures = {} if self.pictures is None else {"image": self.pictures.complete()}
        compiled = {"compile": True} if self.compile else {}
        return digest(
            {
                **pictures,
                **compiled,
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
    with plugins.beside(file.resolve().parent):
        document, mistakes = read(raw, file.resolve().parent)
    if document is not None:
        cells, notes, mistakes = _expand(document, _levels(document.model))
        if not cells and not mistakes:
            mistakes = [("cells", "no cell is left: give [cells] or [[extra]], or exclude less")]
        if document.compare is not None and not mistakes and not pairs(cells, document.compare):
            mistakes = [("compare", f"no two cells differ in {document.compare} alone")]
        if not mistakes:
            return _plan(file, document, cells, notes)
    raise UsageError("\n".join(f"{_place(file, key, overrides)}: {text}" for key, text in mistakes))


def _built(own: Choice) -> OwnModel:
    return own_pipeline.build(own.name, **own.options)


def _levels(model: object) -> samplers.Levels:
    """The noise levels of a model of one's own, else those of all text-to-image models."""
    return _built(model).levels if isinstance(model, Choice) else LEVELS


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
    folder, model, prompts = file.resolve().parent, document.model, tuple[Prompt, ...]()
    of_model: dict[str, Any] = {"negative": "", "dtype": document.dtype, "compile": document.compile}
    if isinstance(model, Choice):
        of_model |= {"model": model.label, "own": model, "dtype": "float32", "compile": False}
        ignored = {
            "prompts": document.prompts is not None,
            f"dtype {document.dtype}": document.dtype != "float32",
            "compile": document.compile,
        }
        notes = [
            *notes,
            *(f"{what}: model {model.name} does not ask for it" for what, there in ignored.items() if there),
        ]
    else:
        assert document.prompts is not None
        prompts = document.prompts.read(document.images)
        given = {"weights": model.weights, "vocab": model.vocab, "merges": model.merges}
        files = {key: _near(path, folder) for key, path in given.items() if path is not None}
        of_model |= {"model": model.name, "model_files": files, "negative": document.prompts.negative}
    return Plan(
        name=document.name or file.stem,
        prompts=tuple(prompt.text for prompt in prompts),
        images=document.images,
        seed=document.seed,
        batch=document.batch,
        device=document.device,
        metrics=tuple(dict.fromkeys(document.metrics)),
        metric_files=MetricFiles(**{key: _near(path, folder) for key, path in document.metric_files.given.items()}),
        pictures=_pictures(document, prompts, folder),
        compare=document.compare,
        cells=tuple(cells),
        notes=tuple(notes),
        **of_model,
    )


def _pictures(document: Document, prompts: Sequence[Prompt], folder: Path) -> Pictures | None:
    image = document.image or Image()
    paths = [image.init or prompt.image for prompt in prompts]
    if image.set is None and not any(paths):
        return None
    return Pictures(files=tuple(path and _near(path, folder) for path in paths), set=image.set, fit=image.fit)


def _near(path: str | Path, folder: Path) -> str:
    """A path of a sweep file: beside the file, else in the working directory, else among what comes with sdlab."""
    beside = folder / Path(path).expanduser()
    return str(beside if beside.exists() else resources.find(path))


def _expand(document: Document, levels: samplers.Levels) -> tuple[list[Cell], list[str], list[Mistake]]:
    """The cells in the order of the file, each once, what is worth a note, and the budgets that cannot be kept."""
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
        try:
            cells.append(_cell(one, levels))
        except ValueError as error:
            mistakes.append((f"{place}.passes", str(error)))
    unique: dict[str, Cell] = {}
    for cell in cells:
        unique.setdefault(canonical(cell.complete()), cell)
    if twice := len(cells) - len(unique):
        notes.append(f"{twice} cell{'s' * (twice > 1)} written twice, run once")
    return list(unique.values()), notes, list(dict.fromkeys(mistakes))


def _crossed(grid: Cells) -> Iterator[Extra]:
    """Every combination, as if each were written by itself."""
    axes = {key: values for key in Extra.model_fields if (values := getattr(grid, key)) is not None}
    for combination in itertools.product(*axes.values()):
        yield Extra.model_construct(**dict(zip(axes, combination, strict=True)))


def _cell(one: Extra, levels: samplers.Levels) -> Cell:
    """The cell; a budget of passes buys as many steps as it can. ValueError where it buys none."""
    cell = Cell(
        sampler=one.sampler,
        grid=one.grid,
        guidance=one.guidance,
        steps=one.steps or 1,
        strength=one.strength,
        budget=one.passes,
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
    )


def _any(axis: Axis, choice: Choice, wanted: Iterable[Choice] | None) -> bool:
    """Whether the choice has the name and the given options of one of those wanted."""
    has = choice.complete(axis)
    return wanted is None or any(one.name == choice.name and {**has, **one.options} == has for one in wanted)
