"""The difference of two pictures, traced to the settings in which their requests differ."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from samplers.checks import unknown
from sdlab import plugins
from sdlab.commands import of_a1111, of_comfyui
from sdlab.commands.drawing import Prepared, artist, load, prepare
from sdlab.commands.factors import Factor, factors
from sdlab.commands.foreign import Foreign, Unreadable
from sdlab.commands.of_run import is_cell, request_of
from sdlab.commands.request import FIELD, Request, parse_size
from sdlab.commands.show import show, texts_of
from sdlab.picture import read_picture, to_bytes
from sdlab.registry import PLAIN
from sdlab.report.columns import Column, Field, Table
from sdlab.report.contact_sheet import Strip, contact_sheet
from sdlab.report.shapley import shapley
from sdlab.system.device import enough_memory
from sdlab.system.errors import UsageError
from sdlab.system.limits import brief
from sdlab.system.reading import read_toml

MOST = 5  # settings whose Shapley values are computed, from the pictures of all 2⁵ combinations
_LEVELS = 127.5  # 8-bit levels per unit of pixel values in [−1, 1]
Swaps = frozenset[int]
"""The settings that have B's value, by index."""
_NONE = Swaps()
_SHOWN = 60  # characters of a value


@dataclass(frozen=True)
class Source:
    """A request, and the picture that was drawn from it, if it comes from one."""

    name: str
    request: Request
    picture: Path | None = None
    notes: tuple[str, ...] = ()  # what is not drawn
    foreign: Foreign | None = None  # if another tool drew the picture, and its model is still to be chosen


@dataclass(frozen=True)
class Drawn:
    """A picture that was drawn anew."""

    latents: Tensor  # (1, C, h, w)
    pixels: Tensor  # (1, 3, H, W) in [−1, 1]


def read(path: Path, device: str = "auto", image: int = 0) -> Source:
    """The request of a PNG file, of a TOML file with the options of `sdlab generate`, or of an image of a cell.

    Raises:
        UsageError: the file cannot be read, has no parameters, or has an invalid option; or it is a contact sheet; or
            there is no such cell.
        RunError: the store of a cell is damaged.
    """
    if is_cell(path):
        return Source(str(path), replace(request_of(path, image).anchored(), device=device))
    toml = path.suffix.lower() == ".toml"
    if not toml and (foreign := _foreign(path)) is not None:
        return Source(str(path), replace(foreign.request, device=device), path, foreign.notes, foreign)
    request = _request(path, read_toml(path)) if toml else show(path).request
    if request.n != 1:
        raise UsageError(f"{path}: has {request.n} pictures; choose a file with one of them, or set n = 1")
    same = replace(request.anchored(), device=device, offload=False, compile=False)
    return Source(str(path), same, None if toml else path)


def _foreign(path: Path) -> Foreign | None:
    """The parameters of a picture of another tool, None for one of sdlab.

    Raises:
        UsageError: they cannot be read.
    """
    texts = texts_of(path)
    if FIELD in texts:
        return None
    for tool in (of_a1111, of_comfyui):
        if isinstance(text := texts.get(tool.FIELD), str):
            try:
                return tool.read(text)
            except Unreadable as error:
                raise UsageError(f"{path} was drawn by {tool.TOOL}: {error}") from None
    return None


def with_models(a: Source, b: Source, model: str | None = None) -> tuple[Source, Source]:
    """Both sources with a model. Pictures of other tools take `model`, or that of the other source.

    Raises:
        UsageError: there is no such model, or `model` is given and both sources have one.
    """
    if a.foreign is None and b.foreign is None:
        if model is not None:
            raise UsageError("--model is for pictures of other tools, and both have a model; leave it out")
        return a, b
    named = next((one for one in (a, b) if one.foreign is None), None)
    if model is None and named is None:
        checkpoints = " and ".join(dict.fromkeys(repr(one.foreign.checkpoint) for one in (a, b) if one.foreign))
        raise UsageError(
            f"other tools name a checkpoint, {checkpoints}, and no file; give --model with its path or name"
        )
    chosen = named.request if model is None and named is not None else Request("", model=model or "").anchored()
    keys = ("model", "weights", "vocab", "merges", "dtype")

    def settled(one: Source) -> Source:
        if one.foreign is None:
            return one
        return replace(one, request=replace(one.request, **{key: getattr(chosen, key) for key in keys}))

    return settled(a), settled(b)


def _request(path: Path, options: dict[str, Any]) -> Request:
    known = [option.name for option in fields(Request)]
    if wrong := [key for key in options if key not in known]:
        raise UsageError(*(f"{path}: {unknown('option', key, known)}" for key in wrong))
    if "prompt" not in options:
        raise UsageError(f'{path}: `prompt` is missing; it should be a text, like prompt = "a red circle"')
    if isinstance(size := options.get("size"), str):
        options = {**options, "size": parse_size(size)}
    try:
        return TypeAdapter(Request).validate_json(json.dumps(options, default=str))
    except ValidationError as error:
        fault = error.errors()[0]
        wanted = PLAIN.get(fault["type"], fault["msg"])
        raise UsageError(f"{path}: {fault['loc'][0]}: {wanted}, got {brief(fault['input'])}") from None


@dataclass(frozen=True)
class Differences:
    """The pictures of A, of B and of the swaps between them, and the share of each setting."""

    a: Source
    b: Source
    factors: Sequence[Factor]
    drawn: dict[Swaps, Drawn]  # by the settings that have B's value
    notes: list[str] = field(default_factory=list)

    @property
    def whole(self) -> Swaps:
        """All settings."""
        return frozenset(range(len(self.factors)))

    def distance(self, swaps: Swaps) -> tuple[float, float]:
        """The RMS distance of a picture to A's, of pixels in 8-bit levels and of latents."""
        first, other = self.drawn[_NONE], self.drawn[swaps]
        return _LEVELS * _rms(first.pixels, other.pixels), _rms(first.latents, other.latents)

    @cached_property
    def shares(self) -> list[float]:
        """What each setting adds to the distance in pixels: its Shapley value, or with many settings that in turn."""
        count = len(self.factors)
        if count <= MOST:
            return shapley(count, lambda some: self.distance(some)[0])
        after = [self.distance(frozenset(range(k)))[0] for k in range(count + 1)]
        return [later - earlier for earlier, later in pairwise(after)]

    @property
    def table(self) -> Table:
        """One row per setting, and one for all of them."""
        count, whole = len(self.factors), self.distance(self.whole)
        alone = [self.distance(frozenset({k})) for k in range(count)]
        after = [self.distance(frozenset(range(k + 1))) for k in range(count)]
        parts = [value / whole[0] if whole[0] else None for value in self.shares]
        names = [factor.name for factor in self.factors]

        def words(name: str, values: list[str], last: str) -> Column:
            every = (*values, last)
            return Column(name, name, every, tuple(Field(_cut(one)) for one in every), left=True)

        def numbers(name: str, heading: str, values: list[float | None], form: Callable[[float], str]) -> Column:
            texts = tuple(Field("" if value is None else form(value)) for value in values)
            return Column(name, heading, tuple(values), texts)

        pixels, latents = "{:.2f}".format, "{:.4f}".format
        return Table(
            "difference",
            (
                words("setting", names, "all"),
                words("A", [factor.before for factor in self.factors], ""),
                words("B", [factor.after for factor in self.factors], ""),
                numbers("alone_pixels", "alone: pixels", [*(x for x, _ in alone), whole[0]], pixels),
                numbers("alone_latents", "alone: latents", [*(x for _, x in alone), whole[1]], latents),
                numbers("after_pixels", "in turn: pixels", [*(x for x, _ in after), whole[0]], pixels),
                numbers("after_latents", "in turn: latents", [*(x for _, x in after), whole[1]], latents),
                numbers("share", "share", [*parts, 1.0 if whole[0] else None], "{:.1%}".format),
            ),
            self._caption(sum(x for x, _ in alone), whole[0]),
        )

    def _caption(self, alone: float, whole: float) -> tuple[str, ...]:
        way = (
            "Shares are Shapley values: the mean over all orders of the swaps."
            if len(self.factors) <= MOST
            else f"With more than {MOST} settings, shares are for the swaps in the order of the table, and another "
            "order may give others."
        )
        return (
            f"A is {self.a.name}, and B is {self.b.name}.",
            "Distances to A are root mean squares, of pixels in 8-bit levels and of latents. Alone: only this setting "
            "has B's value. In turn: this one and all above it.",
            f"{way} They are of the distance in pixels. A setting with a negative one brings the picture nearer to A.",
            f"Interaction: alone, the swaps sum to {alone:.2f} levels. Together they give {whole:.2f}.",
        )

    def draw(self, path: Path) -> None:
        """Write A, each setting swapped alone, and B, as a contact sheet.

        Raises:
            RunError: the file cannot be written.
        """
        swaps = [(f"{f.name}: {_cut(f.before)} → {_cut(f.after)}", frozenset({k})) for k, f in enumerate(self.factors)]
        every = [("A", _NONE), *swaps, ("B", self.whole)]
        strips = [Strip((label,), to_bytes(self.drawn[some].pixels).numpy()) for label, some in every]
        contact_sheet(path, [self.a.request.prompt], strips)


def compare(a: Source, b: Source) -> Differences:
    """Draw A, B and the swaps between them.

    With few settings these are all combinations, otherwise each setting alone and all in turn.

    Raises:
        UsageError: the models differ, an option is invalid, or two settings do not work together.
        RunError: a file is damaged, or sampling failed.
    """
    plugins.discover()
    a, b = (replace(one, request=prepare(one.request).request) for one in (a, b))
    found = factors(a.request, b.request)
    if not found:
        raise UsageError(f"{a.name} and {b.name} have the same settings")
    prepared = {some: _swapped(a.request, found, some) for some in _needed(len(found))}
    result = Differences(a, b, found, _drawn(prepared))
    result.notes.extend(f"{one.name}: {note}" for one in (a, b) for note in one.notes)
    for source, some in ((a, _NONE), (b, result.whole)):
        result.notes.extend(_unlike(source, result.drawn[some]))
    return result


def _needed(count: int) -> list[Swaps]:
    """The combinations of swaps to draw."""
    if count <= MOST:
        return [frozenset(some) for size in range(count + 1) for some in combinations(range(count), size)]
    single = [frozenset({k}) for k in range(count)]
    return list(dict.fromkeys([*single, *(frozenset(range(k)) for k in range(count + 1))]))


def _swapped(request: Request, found: Sequence[Factor], some: Swaps) -> Prepared:
    """The request with some settings of B.

    Raises:
        UsageError: these do not work with the others of A.
    """
    for k in sorted(some):
        request = found[k].swap(request)
    try:
        return prepare(request)
    except UsageError as error:
        names = ", ".join(found[k].name for k in sorted(some))
        raise UsageError(f"A with {names} of B cannot be drawn: {error}") from None


def _drawn(prepared: dict[Swaps, Prepared]) -> dict[Swaps, Drawn]:
    """The pictures of all requests. One model is in memory at a time."""
    alike: dict[tuple[str, str], dict[Swaps, Prepared]] = {}
    for some, one in prepared.items():
        alike.setdefault((one.request.dtype, one.request.tiles), {})[some] = one
    drawn = {}
    for group in alike.values():
        with enough_memory("use a smaller size or dtype bfloat16"):
            loaded = load(*group.values())
            for some, one in group.items():
                drawn[some] = Drawn(*artist(one.subject.ready(loaded), one)(one.request.seed, lambda *_: None))
    return drawn


def _unlike(source: Source, drawn: Drawn) -> Iterator[str]:
    """A note if a picture drawn anew differs from its file."""
    if source.picture is None:
        return
    height, width = drawn.pixels.shape[-2:]
    apart = _LEVELS * _rms(read_picture(source.picture, (height, width))[None], drawn.pixels)
    if apart > 0 and source.foreign is not None:
        yield (
            f"{source.name}: drawn again, it differs from the file by {apart:.2f} levels; {source.foreign.tool} draws "
            "other noise from a seed, and the checkpoint may be another"
        )
    elif apart > 0:
        yield (
            f"{source.name}: drawn again, it differs from the file by {apart:.2f} levels; the file, model, device or "
            "version of sdlab is another"
        )


def _rms(one: Tensor, other: Tensor) -> float:
    """The root-mean-square difference. A tensor of another size is scaled to that of the first."""
    one, other = one.double().cpu(), other.double().cpu()
    if one.shape != other.shape:
        other = F.interpolate(other, one.shape[-2:], mode="bilinear", antialias=True)
    return float((one - other).square().mean().sqrt())


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"
