"""The sweep file and its checks. All mistakes are reported at once, each with its key, its value and the fix.

Types and names are checked value by value, so no mistake hides another. Constraints between two values, such as too
many steps for a grid, are checked once both are known.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from math import prod
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

from annotated_types import Ge, Le
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    model_validator,
)
from pydantic_core import ErrorDetails, PydanticCustomError

import samplers
from samplers.checks import did_you_mean, unknown
from sdlab.backends import registry as backends
from sdlab.backends.base import Mistakes, Opened
from sdlab.metrics import METRICS, MetricFiles
from sdlab.picture import Fit
from sdlab.plugins import explain, is_custom
from sdlab.registry import PLAIN, Mistake, Registry, named
from sdlab.sweep.axes import GRID, GUIDANCE, SAMPLER, grids
from sdlab.sweep.cell import Choice
from sdlab.sweep.prompts import PROMPT_SETS, SETS, SIZE, prompt_set, prompts_in
from sdlab.system.device import resolve
from sdlab.system.errors import UsageError
from sdlab.system.limits import BATCH, CELLS, IMAGES, PASSES, REFERENCE_STEPS, SEED, STEPS, TIMING_ROUNDS, brief
from sdlab.system.paths import path_fault, user_path

T = TypeVar("T")


def _wrong(*mistakes: Mistake) -> PydanticCustomError:
    """An error with mistakes of keys inside the value that is being checked."""
    return PydanticCustomError("sweep", "{mistakes}", {"mistakes": list(mistakes)})


def _as_list(value: object) -> object:
    return value if isinstance(value, list) else [value]


def _choice(value: object, axis: Registry, build: bool = True) -> Choice:
    if isinstance(value, list) and axis.unchained is not None:
        try:
            value = axis.unchained(value)
        except ValueError as error:
            raise _wrong(("", str(error))) from None
    value = named(value)
    if isinstance(value, str):
        choice = Choice(name=value)
        mistakes = [("", text) for _, text in axis.mistakes(value, {}, build)]
    elif isinstance(value, dict) and isinstance(value.get("name"), str):
        options = {key: item for key, item in value.items() if key != "name"}
        choice = Choice(name=value["name"], options=options)
        mistakes = axis.mistakes(choice.name, choice.options, build)
    else:
        like = f'"{axis.example}"'
        raise _wrong(("", f"should be a name like {like} or a table like {{name = {like}, …}}, got {brief(value)}"))
    if mistakes:
        raise _wrong(*mistakes)
    return choice


def _grid(value: object, info: ValidationInfo, build: bool = True) -> Choice:
    return _choice(value, _grids(info), build)


def _context(info: ValidationInfo) -> dict[str, Any]:
    """The folder of the sweep file and, after the model has been read, its noise schedule."""
    assert isinstance(info.context, dict)
    return info.context


def _grids(info: ValidationInfo) -> Registry:
    """The grids on the model's noise schedule. It is known here, because the model is read first."""
    return grids(_context(info)["levels"])


def _fits(steps: int, info: ValidationInfo) -> int:
    chosen = info.data.get("grid", [])
    for grid in chosen if isinstance(chosen, list) else [chosen]:
        if is_custom("grid", grid.name):
            continue  # its code may fail in any way; that fails the cell and not the sweep
        try:
            _grids(info).build(grid.name, steps=steps, **grid.options)
        except (ValueError, ArithmeticError) as error:
            raise _wrong(("", explain(error))) from None
    return steps


def _steps_or_passes(steps: T, info: ValidationInfo) -> T:
    """Check that exactly one of the two is given. `passes` is read first and counts as given even if it is invalid."""
    passes = info.data.get("passes", True) is not None
    if steps is None and not passes:
        raise _wrong(("", f"missing; it should be {_RIGHT['steps']}"))
    if steps is not None and passes:
        raise _wrong(("", "steps follow from `passes`; give only one of the two"))
    return steps


def _metric(name: str) -> str:
    if name not in METRICS:
        raise _wrong(("", unknown("metric", name, METRICS)))
    return name


def _model(value: object, info: ValidationInfo) -> Opened:
    value = backends.named(named(value))
    short = isinstance(value, str)
    value = {"name": value} if short else value
    if not (isinstance(value, dict) and isinstance(value.get("name"), str)):
        like = '"scenes" or {name = "sd15", weights = "…"}'
        raise _wrong(("", f"should be a name, a file or a folder, like {like}, got {brief(value)}"))
    options = {key: item for key, item in value.items() if key != "name"}
    try:
        opened = backends.open_model(value["name"], options, _context(info)["folder"])
    except Mistakes as error:
        raise _wrong(*(("" if short and key == "name" else key, text) for key, text in error.mistakes)) from None
    _context(info)["levels"] = opened.levels
    return opened


def _devices(value: object, info: ValidationInfo) -> list[str]:
    """Devices of one kind. Those of another machine are named by their kind alone."""
    names = value if isinstance(value, list) else [value]
    if not names or not all(isinstance(name, str) for name in names):
        raise _wrong(("", f'should be a name like "cuda:0" or a list of them, got {brief(value)}'))
    elsewhere = _context(info).get("elsewhere", False)
    try:
        found = [str(name) if elsewhere and name == "cuda" else resolve(str(name)) for name in names]
    except ValueError as error:
        raise _wrong(("", str(error))) from None
    if len({name.partition(":")[0] for name in found}) > 1:
        raise _wrong(("", "should be devices of one kind, because the last digits differ between kinds"))
    if len(found) > 1 and elsewhere:
        raise _wrong(("", 'should be one kind, like "cuda": --executor places the workers itself'))
    return found


def _readable(path: str, info: ValidationInfo) -> str:
    """The path to read. A relative path starts at the folder of the sweep file."""
    try:
        file = Path(_context(info)["folder"], user_path(path))
        prompts_in(file)
    except UsageError as error:
        raise _wrong(("", str(error))) from None
    return str(file)


def _path(path: str) -> str:
    if fault := path_fault(path):
        raise _wrong(("", fault))
    return path


def _known(name: str, kind: str, known: Iterable[str]) -> str:
    if name not in known:
        raise _wrong(("", unknown(kind, name, known)))
    return name


def _compared(what: str) -> str:
    axis, known = what.partition(".")[0], [key for key in Extra.model_fields if key not in ("images", "seed")]
    if axis not in known:
        raise _wrong(("", unknown("axis", axis, known) + ', or an option of one, like "sampler.variant"'))
    return what


class Prompt(NamedTuple):
    """A prompt and, for image-to-image, its input picture and what that shows."""

    text: str
    image: str | None = None
    caption: str | None = None


def _prompt(value: object) -> Prompt:
    match value:
        case str(text):
            return Prompt(text)
        case {"text": str(text), "image": str(image), **other} if not other:
            return Prompt(text, _path(image))
        case {"text": str(text), "image": str(image), "caption": str(caption), **other} if not other:
            return Prompt(text, _path(image), caption)
    raise _wrong(("", f'should be a text in quotes or a table like {{text = "…", image = "…"}}, got {brief(value)}'))


Listed = Annotated[list[T], BeforeValidator(_as_list), Field(min_length=1)]
Count = Annotated[int, Ge(IMAGES.low), Le(IMAGES.high)]
Dtype = Literal["auto", "float32", "bfloat16", "float16"]
Passes = Annotated[int, Field(ge=PASSES.low, le=PASSES.high)]
AnySteps = Annotated[int, Field(ge=STEPS.low, le=STEPS.high)]
Strength = Annotated[float, Field(ge=0, le=1)]
Seed = Annotated[int, Field(ge=SEED.low, lt=SEED.high + 1)]
Steps = Annotated[AnySteps, AfterValidator(_fits)]
Sampler = Annotated[Choice, PlainValidator(partial(_choice, axis=SAMPLER))]
Guidance = Annotated[Choice, PlainValidator(partial(_choice, axis=GUIDANCE))]
Grid = Annotated[Choice, PlainValidator(_grid)]
# An exclusion may give only some of the options that building the choice would need.
AnySampler = Annotated[Choice, PlainValidator(partial(_choice, axis=SAMPLER, build=False))]
AnyGuidance = Annotated[Choice, PlainValidator(partial(_choice, axis=GUIDANCE, build=False))]
AnyGrid = Annotated[Choice, PlainValidator(partial(_choice, axis=GRID, build=False))]


class _Table(BaseModel):
    model_config = ConfigDict(
        strict=True, extra="forbid", frozen=True, arbitrary_types_allowed=True, use_attribute_docstrings=True
    )


class Prompts(_Table):
    """`[prompts]`: one of `set` (with `count`), `file` and `list`."""

    set: Annotated[str, AfterValidator(partial(_known, kind="prompt set", known=PROMPT_SETS))] | None = None
    """A set of captions of a world, `"scenes"` or `"portraits"`. `"…_heldout"` has combinations that were never trained
    on, and `"…_altered"` changes one fact of each input picture."""
    count: Annotated[int, Field(ge=1, le=SIZE)] | None = None
    """How many prompts of the set. By default one per image."""
    file: Annotated[str, AfterValidator(_readable)] | None = None
    """A text file with one prompt per line. A relative path starts at the folder of the sweep file."""
    listed: Annotated[list[Annotated[Prompt, PlainValidator(_prompt)]], Field(min_length=1)] | None = Field(
        None, alias="list"
    )
    """The prompts themselves."""
    negative: str = ""
    """A negative prompt, which goes with every prompt."""

    @model_validator(mode="after")
    def _one_source(self) -> Prompts:
        given = [key for key in ("set", "file", "list") if getattr(self, _ATTRIBUTE.get(key, key)) is not None]
        if len(given) != 1:
            raise _wrong(("", f"needs exactly one of `set`, `file` and `list`, got {', '.join(given) or 'none'}"))
        if self.count is not None and self.set is None:
            raise _wrong(("count", f"`count` goes with `set`; with `{given[0]}` every prompt is used"))
        return self

    @property
    def have_pictures(self) -> bool:
        """Whether any prompt has an input picture."""
        return any(prompt.image is not None for prompt in self.listed or [])

    def read(self, images: int) -> tuple[Prompt, ...]:
        """The list of prompts. A set without `count` has one per image."""
        if self.set is not None:
            return tuple(map(Prompt, prompt_set(self.set, self.count or min(images, SIZE))))
        if self.listed is not None:
            return tuple(self.listed)
        assert self.file is not None
        return tuple(map(Prompt, prompts_in(Path(self.file))))


_ATTRIBUTE = {"list": "listed"}


class Image(_Table):
    """`[image]`: the input pictures of image-to-image, one for all prompts (`init`) or one each (`set`)."""

    init: Annotated[str, AfterValidator(_path)] | None = None
    """One picture for all prompts."""
    caption: str | None = None
    """What `init` shows, for `directional_similarity`."""
    set: Annotated[str, AfterValidator(partial(_known, kind="picture set", known=SETS))] | None = None
    """Rendered pictures of a world, one per prompt: those that the prompt set of this name describes."""
    fit: Fit = "crop"
    """How `init` is brought to the size of the model."""

    @model_validator(mode="after")
    def _sets_have_captions(self) -> Image:
        if self.caption is not None and self.init is None:
            raise _wrong(("caption", "`caption` goes with `init`; the pictures of a set have captions of their own"))
        return self


class Until(_Table):
    """`images` as a table: images are added, in rounds, to the cells that cannot be distinguished from the best.

    A cell is finished as soon as it is behind another one, or is tied with the best to within `until`.
    """

    until: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    """The largest half width of the interval of a tie, in units of the metric."""
    metric: Annotated[str, AfterValidator(_metric)]
    """The metric that decides: one of `metrics` with a value per image."""
    least: Annotated[int, Field(ge=16, le=IMAGES.high)] = 64
    """Images per cell in the first round. Each further round doubles them."""
    most: Annotated[int, Field(ge=16, le=IMAGES.high)]
    """The most images per cell."""

    @model_validator(mode="after")
    def _in_order(self) -> Until:
        if self.least > self.most:
            raise _wrong(("least", f"should be at most `most`, {self.most}, got {self.least}"))
        return self

    @property
    def looks(self) -> tuple[int, ...]:
        """The images per cell after each round, at each of which the cells are compared."""
        doublings = itertools.takewhile(lambda count: count < self.most, (self.least << k for k in itertools.count()))
        return (*doublings, self.most)

    def mistakes(self, metrics: Sequence[str]) -> Iterator[Mistake]:
        """What is wrong with the metrics of a sweep that stops early."""
        chosen = METRICS[self.metric]
        if not chosen.additive:
            fitting = [name for name in metrics if METRICS[name].additive] or ["prompt_accuracy"]
            text = f"{self.metric} is a property of the whole set, so cells cannot be compared image by image"
            yield "images.metric", f"{text}; choose a metric like {fitting[0]}"
        elif chosen.better == "nearer to real":
            yield "images.metric", f"neither a lower nor a higher {self.metric} is better; choose another metric"
        elif self.metric not in metrics:
            yield "images.metric", f"{self.metric} is not measured; add it to `metrics`"
        if others := [name for name in metrics if not METRICS[name].additive and name != self.metric]:
            text = f"{', '.join(others)} cannot be compared between cells with different numbers of images"
            yield "metrics", f"{text}; leave {'it' if len(others) == 1 else 'them'} out, or give `images` a number"


_COUNT = TypeAdapter(Annotated[Count, Field(strict=True)])


def _images(value: object) -> int | Until:
    try:
        return Until.model_validate(value) if isinstance(value, dict) else _COUNT.validate_python(value)
    except ValidationError as error:
        faults = [ErrorDetails({**fault, "loc": ("images", *fault["loc"])}) for fault in error.errors()]
        mistakes = [mistake for fault in faults for mistake in mistakes_of(fault)]
        raise _wrong(*((path.removeprefix("images").removeprefix("."), text) for path, text in mistakes)) from None


def _prompts_are_used(prompts: Prompts | None, info: ValidationInfo) -> Prompts | None:
    opened: Opened | None = info.data.get("model")
    if prompts is None and opened is not None and "prompts" not in opened.ignores:
        raise _wrong(("", f"missing; it should be {_RIGHT['prompts']}"))
    return prompts


class Cells(_Table):
    """`[cells]`: every combination is a cell. The grid is read before the steps, which are checked against it.

    `passes` may replace `steps`: budgets of network passes per image, from which each cell takes as many steps as fit.
    """

    sampler: Listed[Sampler]
    """The [samplers](samplers.md)."""
    grid: Listed[Grid] = [Choice(name="trailing")]
    """The [grids](grids.md)."""
    guidance: Listed[Guidance] = [Choice(name="none")]
    """The [guidance strategies](guidance.md)."""
    passes: Listed[Passes] | None = None
    """Budgets of network passes per image, in place of `steps`. Each cell takes as many steps as fit."""
    steps: Annotated[Listed[Steps] | None, AfterValidator(_steps_or_passes)] = Field(None, validate_default=True)
    """Steps of the sampler."""
    strength: Listed[Strength] | None = None
    """For image-to-image: 0 keeps the input picture, 1 ignores it."""
    images: Listed[Count] | None = None
    """Images per cell, in place of the key of that name above: how metrics depend on their number."""
    seed: Listed[Seed] | None = None
    """First seeds, in place of the key of that name above: the same cell run several times. Adds `repeats.md`."""

    @model_validator(mode="after")
    def _not_too_many(self) -> Cells:
        axes = (getattr(self, key) for key in Cells.model_fields)
        if (count := prod(len(values) for values in axes if values is not None)) > CELLS.high:
            raise _wrong(("", f"makes {count:,} cells, and a sweep has at most {CELLS.high:,}; list fewer values"))
        return self


class Extra(_Table):
    """`[[extra]]`: one more cell, with steps or a budget of passes."""

    sampler: Sampler
    grid: Grid
    guidance: Guidance
    passes: Passes | None = None
    steps: Annotated[Steps | None, AfterValidator(_steps_or_passes)] = Field(None, validate_default=True)
    strength: Strength | None = None
    images: Count | None = None
    seed: Seed | None = None


class Exclude(_Table):
    """`[[exclude]]`: drops the cells that match every given key in one of its values."""

    sampler: Listed[AnySampler] | None = None
    grid: Listed[AnyGrid] | None = None
    guidance: Listed[AnyGuidance] | None = None
    passes: Listed[Passes] | None = None
    steps: Listed[AnySteps] | None = None
    strength: Listed[Strength] | None = None
    images: Listed[Count] | None = None
    seed: Listed[Seed] | None = None

    @model_validator(mode="after")
    def _not_empty(self) -> Exclude:
        if not self.model_fields_set:
            keys = "sampler, grid, guidance, passes, steps, strength, images or seed"
            raise _wrong(("", f"an empty `[[exclude]]` would drop every cell; give {keys}"))
        return self


class Document(_Table):
    """The whole file."""

    name: Annotated[str, Field(pattern=r"^\w[\w.-]*$")] | None = None
    """Name of the run directory. By default the name of the file."""
    model: Annotated[Opened, PlainValidator(_model)]
    """The model to sample."""
    images: Annotated[Count | Until, PlainValidator(_images)] = 128
    """Images per cell. A table adds images to each cell until its place is known, see below."""
    seed: Seed = 0
    """Image i has seed `seed` + i, in every cell."""
    batch: Annotated[int, Field(ge=BATCH.low, le=BATCH.high)] = 32
    """Images that are sampled at once. It does not change the images."""
    timing_rounds: Annotated[int, Field(ge=0, le=TIMING_ROUNDS.high)] = 0
    """Rounds in which the first batch of every cell is drawn once more, in turn, to measure the time. One more round
    before them is left out. With 0 the times are those of the batches of each cell."""
    dtype: Dtype = "float32"
    """Data type of the networks. The state of the sampler is float32. `"auto"` is bfloat16 on hardware that multiplies
    in it, and float32 elsewhere."""
    compile: bool = False
    """Compile the U-Net. This takes minutes before the first cell and is meant for GPUs."""
    device: Annotated[list[str], BeforeValidator(_devices)] = Field("auto", validate_default=True)
    """`"auto"`, `"cpu"` or `"cuda"`. `"auto"` takes the GPU if there is one. A list, like `["cuda:0", "cuda:1"]`, has
    one worker process for each."""
    metrics: Annotated[list[Annotated[str, AfterValidator(_metric)]], BeforeValidator(_as_list)] = []
    """Names of metrics, measured in this order. A sweep without metrics is run for its pictures: it writes the first
    128 of each cell as files."""
    metric_files: MetricFiles = MetricFiles()
    """Files that some metrics can use."""
    reference_steps: Annotated[int, Field(ge=REFERENCE_STEPS.low, le=REFERENCE_STEPS.high)] = 500
    """Steps of the fine run that `reference_error` compares a network's samples with, once per guidance strategy."""
    prompts: Annotated[Prompts | None, AfterValidator(_prompts_are_used)] = Field(None, validate_default=True)
    """The prompts. Required for models with a text encoder."""
    image: Image | None = None
    """The input pictures of image-to-image."""
    compare: Annotated[str, AfterValidator(_compared)] | None = None
    """An axis, or an option of one, like `"sampler.eta"`. Adds `differences.md`: cells that differ in this alone,
    subtracted."""
    cells: Cells | None = None
    """The combinations to run."""
    exclude: list[Exclude] = []
    """Combinations to leave out."""
    extra: list[Extra] = []
    """Single cells beside the combinations."""

    @property
    def most_images(self) -> int:
        """Images per cell, at most."""
        return self.images.most if isinstance(self.images, Until) else self.images

    @model_validator(mode="after")
    def _metrics_allow_stopping(self) -> Document:
        if isinstance(self.images, Until):
            mistakes = list(self.images.mistakes(self.metrics))
            if self.compare is not None:
                mistakes.append(("compare", "does not work with `until`; give `images` a number"))
            if mistakes:
                raise _wrong(*mistakes)
        return self

    @model_validator(mode="after")
    def _axes_of_images(self) -> Document:
        """`images` and `seed` stand in one place, and what compares with the same images stands aside."""
        mistakes = list[Mistake]()
        for key in ("images", "seed"):
            there = [f"extra[{i}].{key}" for i, one in enumerate(self.extra) if getattr(one, key) is not None]
            if self.cells is not None and getattr(self.cells, key) is not None:
                there.insert(0, f"cells.{key}")
                if key in self.model_fields_set:
                    mistakes.append((f"cells.{key}", f"`{key}` is given for all cells too; keep one of them"))
            if there and isinstance(self.images, Until):
                mistakes.append((there[0], "does not work with `until`; give `images` a number"))
            if there and key == "seed" and "reference_error" in self.metrics:
                text = "reference_error follows the flow of one set of seeds; leave out the metric or this axis"
                mistakes.append((there[0], text))
        if self.cells is not None and self.cells.seed is not None:
            most = max(self.cells.images or [self.most_images])
            for first, other in itertools.pairwise(sorted(set(self.cells.seed))):
                if other - first < most:
                    text = (
                        f"{first} and {other} share images, because a cell has {most}; leave {most} between first seeds"
                    )
                    mistakes.append(("cells.seed", text))
                    break
        if mistakes:
            raise _wrong(*mistakes)
        return self

    @property
    def _pictures_beside_prompts(self) -> bool:
        return self.prompts is not None and self.prompts.have_pictures

    @model_validator(mode="after")
    def _budgets_without_pictures(self) -> Document:
        there = [("cells.passes", self.cells), *((f"extra[{i}].passes", one) for i, one in enumerate(self.extra))]
        wrong = [place for place, one in there if one is not None and one.passes is not None]
        if wrong and (self.image is not None or self._pictures_beside_prompts):
            text = "`passes` does not work with input pictures; give `steps`"
            raise _wrong(*((place, text) for place in wrong))
        return self

    @model_validator(mode="after")
    def _pictures_have_strengths(self) -> Document:
        given = [] if self.image is None else [f"image.{key}" for key in ("init", "set") if getattr(self.image, key)]
        given += ["images beside the prompts"] * self._pictures_beside_prompts
        if len(given) > 1:
            raise _wrong(("image", f"input pictures come from several places ({', '.join(given)}); keep one"))
        if given and not self.model.starts_from_pictures:
            raise _wrong(("image", f"model {self.model.name} cannot start from pictures; remove them"))
        if self.image is not None and not given:
            raise _wrong(("image", "needs `init` (a picture) or `set`"))
        there = {f"extra[{i}].strength": one.strength is not None for i, one in enumerate(self.extra)}
        if self.cells is not None:
            there["cells.strength"] = self.cells.strength is not None
        if wrong := [place for place, is_there in there.items() if is_there is not bool(given)]:
            text = "`strength` goes with input pictures; add [image] with `init` or `set`"
            text = "missing; say how far to move away from the input pictures, like [0.4, 0.8]" if given else text
            raise _wrong(*((place, text) for place in wrong))
        return self


_TABLES: dict[str, type[BaseModel]] = {
    "": Document, "prompts": Prompts, "image": Image, "cells": Cells, "exclude": Exclude, "extra": Extra,
    "metric_files": MetricFiles, "images": Until,
}  # fmt: skip
_RIGHT = {
    "model": 'a model, like "scenes"',
    "prompts": 'a table, like [prompts] with set = "scenes" and count = 128',
    "until": "the half width of an interval, like 0.01",
    "metric": 'the metric that decides, like "prompt_accuracy"',
    "most": "the most images per cell, like 2048",
    "sampler": 'a sampler, like "ddim" or {name = "ddim", eta = 0.5}',
    "steps": "whole numbers from 1, like [5, 10, 20]; or give `passes`, the network passes per image",
}

# An extra cell takes a missing choice from [cells], which always has a grid and a guidance.
_SEVERAL = {
    "grid": '`cells.grid` lists several grids; name one in this `[[extra]]`, like "trailing"',
    "guidance": "`cells.guidance` lists several strategies; name one in this `[[extra]]`, "
    'like {name = "cfg", scale = 3.0}',
}


def read(raw: dict[str, Any], folder: Path, elsewhere: bool = False) -> tuple[Document | None, list[Mistake]]:
    """The document in `raw` (parsed TOML), or the (key path, sentence) of each mistake in it.

    If cells run `elsewhere`, this machine need not have their device.
    """
    context = {"folder": folder, "levels": samplers.discrete_levels(), "elsewhere": elsewhere}
    try:
        return Document.model_validate(_inherit(raw), context=context), []
    except ValidationError as error:
        return None, [mistake for fault in error.errors() for mistake in mistakes_of(fault)]


def read_extra(raw: Mapping[str, Any], levels: samplers.Levels, folder: Path) -> tuple[Extra | None, list[Mistake]]:
    """The single cell in `raw`, like a complete `[[extra]]`, or the (key path, sentence) of each mistake in it."""
    try:
        return Extra.model_validate(raw, context={"folder": folder, "levels": levels}), []
    except ValidationError as error:
        faults = [ErrorDetails({**fault, "loc": ("extra", *fault["loc"])}) for fault in error.errors()]
        return None, [(path.removeprefix("extra."), text) for fault in faults for path, text in mistakes_of(fault)]


def _inherit(raw: dict[str, Any]) -> dict[str, Any]:
    """`raw` with what an extra cell leaves out taken from [cells], where that has exactly one value."""
    cells, extra = raw.get("cells", {}), raw.get("extra", [])
    if not isinstance(cells, dict) or not isinstance(extra, list):
        return raw
    shared: dict[str, Any] = {"grid": "trailing", "guidance": "none", **cells}
    values = {key: _as_list(shared[key]) for key in Extra.model_fields if key in shared}
    alone = {key: value[0] for key, value in values.items() if isinstance(value, list) and len(value) == 1}
    return {**raw, "extra": [_with(alone, one) if isinstance(one, dict) else one for one in extra]} if extra else raw


def _with(shared: dict[str, Any], one: dict[str, Any]) -> dict[str, Any]:
    """An extra cell with what it leaves out; one that has steps takes no passes, and vice versa."""
    lengths = {"steps", "passes"}
    return {**{key: value for key, value in shared.items() if not (key in lengths and lengths & one.keys())}, **one}


def mistakes_of(fault: ErrorDetails, tables: Mapping[str, type[BaseModel]] | None = None) -> Iterator[Mistake]:
    """The mistakes that an error of pydantic stands for. `tables` are the models by their key in the file."""
    path, value, kind = _key(fault["loc"]), fault["input"], fault["type"]
    if kind == "sweep":
        for key, text in fault["ctx"]["mistakes"]:
            yield ".".join(filter(None, (path, key))), text
    elif kind == "extra_forbidden":
        table = (tables or _TABLES)[next((part for part in fault["loc"][:-1] if isinstance(part, str)), "")]
        known = sorted(field.alias or key for key, field in table.model_fields.items())
        yield path, unknown("key", str(fault["loc"][-1]), known)
    elif kind == "missing":
        key = str(fault["loc"][-1])
        several = _SEVERAL.get(key) if fault["loc"][0] == "extra" else None
        yield path, several or f"missing; it should be {_RIGHT[key]}"
    elif kind == "literal_error":
        known_values = re.findall(r"'([^']*)'", fault["ctx"]["expected"])
        yield (
            path,
            f"should be one of {', '.join(known_values)}, got {brief(value)}{did_you_mean(str(value), known_values)}",
        )
    elif kind == "too_short":
        yield path, "should have at least one value, got []"
    elif kind in ("greater_than_equal", "less_than_equal"):
        bound = "at least" if kind.startswith("greater") else "at most"
        yield path, f"should be {bound} {fault['ctx'].get('ge', fault['ctx'].get('le'))}, got {brief(value)}"
    elif kind == "string_pattern_mismatch":
        yield path, f"should be letters, digits, '_', '-' and '.', got {brief(value)}"
    elif kind in ("model_type", "model_attributes_type"):
        yield path, f"should be a table, got {brief(value)}"
    else:
        sentence = fault["msg"].removeprefix("Input ")
        yield path, f"{PLAIN.get(kind, sentence)}, got {brief(value)}"


def _key(location: tuple[int | str, ...]) -> str:
    """`("cells", "sampler", 1, "name")` as `cells.sampler[1].name`."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location).removeprefix(".")
