"""Drawing of a request's pictures, as PNG files that store the request."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from math import ceil, sqrt
from pathlib import Path
from typing import Any, cast

from PIL import Image
from PIL.PngImagePlugin import PngInfo
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

import samplers
from sdlab import guidance, plugins
from sdlab.backends.base import Backend
from sdlab.backends.inversion import obstacles
from sdlab.commands.explained import explained
from sdlab.commands.inline_choice import build_choice
from sdlab.commands.inverting import Inversion
from sdlab.commands.request import FIELD, Request
from sdlab.commands.subject import Subject, open_subject
from sdlab.guidance import Query
from sdlab.guidance.needs import idle, lacking, missed, needed, needs_gradients, repeated
from sdlab.picture import FITS, Fit, read_picture, to_bytes
from sdlab.pipeline import TILES, tail
from sdlab.report.contact_sheet import grid_of
from sdlab.sweep.axes import GUIDANCE, SAMPLER, grids
from sdlab.system.console import line
from sdlab.system.device import enough_memory, resolve, resolve_dtype
from sdlab.system.errors import UsageError
from sdlab.system.files import add, file_words, make_folder
from sdlab.system.limits import IMAGES, SEED, SIDE, STEPS

DTYPES = ("auto", "float32", "bfloat16", "float16")
STRENGTH = 0.6  # the default of --strength
_GAP, _WIDEST = 4, 4096  # pixels: between the pictures of a contact sheet, and its longer side


@dataclass(frozen=True)
class Method:
    """The sampler, grid and guidance strategy of a request, built with their options."""

    sampler: samplers.Sampler
    sigmas: tuple[float, ...]
    strategy: guidance.Strategy


@dataclass(frozen=True)
class Prepared:
    """A request with all its choices made and checked, before any weights are loaded."""

    request: Request
    subject: Subject
    method: Method
    queries: set[Query]
    others: list[str]  # further networks
    picture: Tensor | None  # to start from, (1, 3, H, W)
    steps: int  # that are run

    @property
    def strength(self) -> float:
        """The part of the grid that is run: 1 without an input picture."""
        return 1.0 if self.request.strength is None else self.request.strength

    @property
    def sigmas(self) -> tuple[float, ...]:
        """The part of the grid that is run."""
        return self.method.sigmas[-(self.steps + 1) :]


def prepare(request: Request) -> Prepared:
    """Check a request, and fill in the defaults of its model.

    Raises:
        UsageError: an option is unknown or its value is invalid.
        RunError: a file of the model is damaged, or custom code failed.
    """
    request = _checked(request)
    subject = open_subject(request)
    request = _chosen(request, subject)
    with explained(request.dtype), plugins.Boundary().crossed():  # custom code runs here
        method = _method(request, subject.levels)
        queries = needed(method.strategy, method.sigmas, method.sampler)
        others = _others(queries, subject, request)
    if request.invert:
        for choice, why in obstacles(method.sampler, method.sigmas, method.strategy):
            raise UsageError(f"--{choice}: {getattr(request, choice)} {why}")
    steps = _steps(method, 1.0 if request.strength is None else request.strength)
    prepared = Prepared(request, subject, method, queries, others, _input(request), steps)
    if fault := idle(method.strategy, prepared.sigmas):
        raise UsageError(f"--guidance: {fault}")
    return prepared


def load(prepared: Prepared, *more: Prepared) -> Any:
    """The weights of a request's model, with all that it and further requests for the same model and data type use.

    Raises:
        RunError: a file of the model is damaged.
    """
    every = (prepared, *more)
    others = sorted({name for one in every for name in one.others})
    return prepared.subject.load(prepared.request, others, any(needs_gradients(one.queries) for one in every))


def artist(model: Backend, prepared: Prepared) -> Callable[[int, Callable[..., object]], tuple[Tensor, Tensor]]:
    """The function from a seed to the latents (1, C, h, w) and the picture (1, 3, H, W) of a request.

    Its second argument is called after each step. The prompts are encoded once.
    """
    if prepared.request.invert:
        return inversion(model, prepared).draw
    request, method, boundary = prepared.request, prepared.method, plugins.Boundary()
    cond, uncond = model.contexts([request.prompt], request.negative)
    init = None if prepared.picture is None else model.encode_image(prepared.picture)

    def draw(seed: int, on_step: Callable[..., object]) -> tuple[Tensor, Tensor]:
        with explained(request.dtype), boundary.crossed():
            latents = model.sample(
                cond, uncond, method.sampler, method.sigmas, method.strategy, [seed],
                on_step=boundary.back(on_step), init=init, strength=prepared.strength,
            )  # fmt: skip
            picture = model.decode(latents)
            assert picture is not None  # subjects draw pictures
            return latents, picture

    return draw


def inversion(model: Backend, prepared: Prepared) -> Inversion:
    """The inversion of a request's input picture."""
    method, picture = prepared.method, prepared.picture
    assert picture is not None
    return Inversion(model, prepared.request, method.sampler, prepared.sigmas, method.strategy, picture)


def generate(request: Request, out: Path, console: Console) -> list[Path]:
    """Draw `request.n` pictures into `out`, and a contact sheet if there are several. No file is ever replaced.

    Pictures are drawn one at a time, so each is bit-identical to the same picture drawn alone.

    Raises:
        UsageError: an option is unknown or its value is invalid. Found before any weights are loaded.
        RunError: a file cannot be read or written, the model returned NaN or infinity, or a sampler or custom code
            failed.
    """
    prepared = prepare(request)
    request = prepared.request
    make_folder(out)
    with _progress(console) as progress, enough_memory("use a smaller --size or --dtype bfloat16"):
        bar = progress.add_task(f"loading {request.model}", total=None)
        model = prepared.subject.ready(load(prepared))
        for note in _notes(prepared, model):
            line(console, f"note: {note}")
        inverse = inversion(model, prepared) if request.invert else None
        draw = artist(model, prepared) if inverse is None else inverse.draw
        progress.reset(bar, total=request.n * prepared.steps)
        paths, small = list[Path](), list[Image.Image]()
        for i in range(request.n):
            progress.update(bar, description=f"picture {i + 1} of {request.n}")
            _, decoded = draw(request.seed + i, lambda *_: progress.advance(bar))
            drawn = _image(decoded)
            paths.append(_write(drawn, replace(request, seed=request.seed + i, n=1), out, str(request.seed + i)))
            small.append(_shrunk(drawn, request.n))
        if inverse is not None:
            line(console, inverse.report())
    if request.n > 1:
        sheet = _write(grid_of(small, gap=_GAP), request, out, f"{request.seed}-to-{request.seed + request.n - 1}")
        line(console, f"contact sheet: {sheet}")
    return paths


def _notes(prepared: Prepared, model: Backend) -> Iterator[str]:
    """What the user should know about a request before its pictures."""
    request, method = prepared.request, prepared.method
    yield from prepared.subject.notes
    if why := missed(method.strategy, prepared.sigmas, method.sampler):
        yield f"--guidance: {why}"
    further = {query.prompt for query in prepared.queries if query.prompt}
    named = [("prompt", request.prompt), ("negative prompt", request.negative)]
    for name, text in (*named, *(("guidance prompt", text) for text in sorted(further))):
        if cut := model.cut(text):
            yield f"the {name} is too long for the text encoder; its end is ignored: {cut!r}"


def _progress(console: Console) -> Progress:
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("steps")
    return Progress(
        *columns, TimeRemainingColumn(),
        console=console, transient=True, redirect_stdout=False, disable=not console.is_terminal,
    )  # fmt: skip


def _checked(request: Request) -> Request:
    """The request with its device resolved, after the checks that do not depend on the model.

    Raises:
        UsageError: the first mistake found.
    """
    try:
        device = resolve(request.device)
    except ValueError as error:
        raise UsageError(f"--device: {error}") from None
    for option, value, known in (
        ("--dtype", request.dtype, DTYPES),
        ("--tiles", request.tiles, TILES),
        ("--fit", request.fit, (None, *FITS)),
    ):
        if value not in known:
            raise UsageError(f"{option} must be one of {', '.join(filter(None, known))}, got {value!r}")
    for option, number, limits in (
        ("-n", request.n, IMAGES), ("--seed", request.seed, SEED), ("--steps", request.steps, STEPS),
        *(("--size: each side", side, SIDE) for side in request.size or ()),
    ):  # fmt: skip
        limits.check(option, number)
    for option, given in (
        ("--strength", request.strength), ("--fit", request.fit), ("--invert", request.invert or None),
    ):  # fmt: skip
        if given is not None and request.init_image is None:
            raise UsageError(f"{option} needs --init-image")
    if request.caption is not None and not request.invert:
        raise UsageError("--caption needs --invert")
    if request.invert and request.n > 1:
        raise UsageError("-n: --invert draws one picture, because nothing in it is random")
    if request.compile and request.offload:
        raise UsageError("--compile and --offload cannot be combined; leave one out")
    return replace(request, device=device, dtype=resolve_dtype(request.dtype, device))


def _chosen(request: Request, subject: Subject) -> Request:
    """The request with the defaults of the model filled in."""
    usual = "none" if request.invert else subject.strategy  # inversion changes less without guidance
    request = replace(request, size=subject.size, guidance=request.guidance or usual)
    if request.init_image is None:
        return request
    strength = (1.0 if request.invert else STRENGTH) if request.strength is None else request.strength
    caption = request.prompt if request.invert and request.caption is None else request.caption
    return replace(request, strength=strength, fit=request.fit or "crop", caption=caption)


def _method(request: Request, levels: samplers.Levels) -> Method:
    """The sampler, grid and guidance strategy of the request, on the noise schedule of the model.

    Raises:
        UsageError: one of them is unknown, or an option or value is invalid.
    """
    assert request.guidance is not None
    plugins.discover()
    return Method(
        build_choice(SAMPLER, request.sampler),
        build_choice(grids(levels), request.grid, steps=request.steps, levels=levels),
        build_choice(GUIDANCE, request.guidance),
    )


def _others(asked: set[Query], subject: Subject, request: Request) -> list[str]:
    """The further networks of the model that the queries of the guidance strategy run.

    Raises:
        UsageError: the model or the request lacks what the strategy needs.
        RunError: the file of such a network is damaged.
    """
    for query in asked:
        if fault := lacking(query, subject.offer):
            raise UsageError(f"--guidance: {fault}")
    if fault := repeated(asked, request.negative):
        raise UsageError(f"--guidance: {fault}")
    others = sorted({query.network for query in asked if query.network is not None})
    subject.check(request, others)
    return others


def _steps(method: Method, strength: float) -> int:
    """The number of steps that are run."""
    try:
        return len(tail(method.sigmas, strength)) - 1
    except ValueError as error:
        raise UsageError(str(error)) from None


def _input(request: Request) -> Tensor | None:
    """The input picture, (1, 3, H, W), or None."""
    if request.init_image is None:
        return None
    assert request.size is not None
    try:
        return read_picture(Path(request.init_image).expanduser(), request.size, cast(Fit, request.fit))[None]
    except UsageError as error:
        raise UsageError(f"--init-image: {error}") from None


def _image(decoded: Tensor) -> Image.Image:
    return Image.fromarray(to_bytes(decoded)[0].numpy())


def _shrunk(picture: Image.Image, n: int) -> Image.Image:
    """The picture, scaled down if a contact sheet of `n` such pictures would be too large."""
    scale = min(1.0, _WIDEST / (ceil(sqrt(n)) * (max(picture.size) + _GAP)))
    return picture.resize((max(1, int(picture.width * scale)), max(1, int(picture.height * scale))))


def _write(picture: Image.Image, request: Request, out: Path, ending: str) -> Path:
    """Write a PNG under an unused name, with the request that reproduces it in its text field."""
    words = file_words(request.prompt.lower()[:48], 192) or "picture"
    info = PngInfo()
    info.add_itxt(FIELD, request.anchored().to_text())
    return add(out / f"{words}-{ending}.png", lambda draft: picture.save(draft, format="PNG", pnginfo=info))
