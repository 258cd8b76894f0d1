"""Drawing of a request's pictures, as PNG files that store the request."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import ceil, sqrt
from pathlib import Path
from typing import cast

import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

import samplers
from sdlab import guidance, plugins
from sdlab.commands.inline_choice import build_choice
from sdlab.commands.request import FIELD, Request
from sdlab.cpu.optimise import optimise_for_inference
from sdlab.guidance.needs import lacking, needed
from sdlab.model.config import ModelConfig
from sdlab.picture import FITS, Fit, read_picture, to_bytes
from sdlab.pipeline import TILES, NotFinite, Pipeline, Tiles, latent_shape, tail
from sdlab.report.contact_sheet import grid_of
from sdlab.sweep.axes import GUIDANCE, SAMPLER, grids
from sdlab.system.console import line
from sdlab.system.device import enough_memory, resolve, resolve_dtype
from sdlab.system.errors import RunError, UsageError
from sdlab.system.files import add, file_words, make_folder
from sdlab.system.limits import IMAGES, SEED, SIDE, STEPS
from sdlab.weights.model_loader import StoredModel, load, open_model

DTYPES = ("auto", "float32", "bfloat16", "float16")
STRENGTH = 0.6  # the default of --strength
# Default CFG scale of a model; for others 7.5, as is usual for Stable Diffusion.
_CFG = {"scenes": 3.0, "portraits": 2.0}
_GAP, _WIDEST = 4, 4096  # pixels: between the pictures of a contact sheet, and its longer side


@dataclass(frozen=True)
class Method:
    """The sampler, grid and guidance strategy of a request, built with their options."""

    sampler: samplers.Sampler
    sigmas: tuple[float, ...]
    strategy: guidance.Strategy


def generate(request: Request, out: Path, console: Console) -> list[Path]:
    """Draw `request.n` pictures into `out`, and a contact sheet if there are several. No file is ever replaced.

    Pictures are drawn one at a time, so each is bit-identical to the same picture drawn alone.

    Raises:
        UsageError: an option is unknown or its value is invalid. Found before any weights are loaded.
        RunError: a file cannot be read or written, the model returned NaN or infinity, or a sampler or custom code
            failed.
    """
    request = _checked(request)
    stored = open_model(request.source)
    request = _chosen(request, stored.config)
    method = _method(request, stored.config)
    others = _others(method, stored)
    strength = 1.0 if request.strength is None else request.strength
    steps = _steps(method, strength)
    picture = _input(request)
    make_folder(out)
    with _progress(console) as progress, enough_memory("use a smaller --size or --dtype bfloat16"):
        bar = progress.add_task(f"loading {request.model}", total=None)
        pipeline = _open(request, stored, others)
        notes = [*stored.notes]
        for name, text in (("prompt", request.prompt), ("negative prompt", request.negative)):
            if cut := pipeline.model.tokenizer.cut(text):
                notes.append(f"the {name} is too long for the text encoder; its end is ignored: {cut!r}")
        for note in notes:
            line(console, f"note: {note}")
        cond, uncond = pipeline.encode([request.prompt]), pipeline.encode([request.negative])
        init = None if picture is None else pipeline.encode_image(picture)
        progress.reset(bar, total=request.n * steps)
        paths, small, boundary = list[Path](), list[Image.Image](), plugins.Boundary()
        for i in range(request.n):
            progress.update(bar, description=f"picture {i + 1} of {request.n}")
            with _explained(request.dtype), boundary.crossed():
                latents = pipeline.sample(
                    cond, uncond, method.sampler, method.sigmas, method.strategy,
                    [request.seed + i], boundary.back(lambda *_: progress.advance(bar)), request.size, init, strength,
                )  # fmt: skip
                decoded = pipeline.decode(latents)
            drawn = _image(decoded)
            paths.append(_write(drawn, replace(request, seed=request.seed + i, n=1), out, str(request.seed + i)))
            small.append(_shrunk(drawn, request.n))
    if request.n > 1:
        sheet = _write(grid_of(small, gap=_GAP), request, out, f"{request.seed}-to-{request.seed + request.n - 1}")
        line(console, f"contact sheet: {sheet}")
    return paths


@contextmanager
def _explained(dtype: str) -> Iterator[None]:
    """Add advice to an error of sampling, such as another data type or the place of the traceback.

    Raises:
        RunError: sampling failed.
    """
    try:
        yield
    except NotFinite as error:
        raise RunError(f"{error}{error.advice(dtype)}") from None
    except plugins.CodeError as error:
        raise RunError(f"{error}{plugins.logged('sdlab generate', error.trace)}") from None


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
    for option, given in (("--strength", request.strength), ("--fit", request.fit)):
        if given is not None and request.init_image is None:
            raise UsageError(f"{option} needs --init-image")
    if request.compile and request.offload:
        raise UsageError("--compile and --offload cannot be combined; leave one out")
    return replace(request, device=device, dtype=resolve_dtype(request.dtype, device))


def _chosen(request: Request, config: ModelConfig) -> Request:
    """The request with the defaults of the model filled in.

    Raises:
        UsageError: the model cannot draw at this size.
    """
    size = request.size or (config.image_size, config.image_size)
    try:
        latent_shape(config, size)
    except ValueError as error:
        raise UsageError(f"--size: {error}") from None
    strategy = request.guidance or f"cfg scale={_CFG.get(config.name, 7.5)}"
    request = replace(request, size=size, guidance=strategy)
    if request.init_image is None:
        return request
    strength = STRENGTH if request.strength is None else request.strength
    return replace(request, strength=strength, fit=request.fit or "crop")


def _method(request: Request, config: ModelConfig) -> Method:
    """The sampler, grid and guidance strategy of the request, on the noise schedule of the model.

    Raises:
        UsageError: one of them is unknown, or an option or value is invalid.
    """
    assert request.guidance is not None
    plugins.discover()
    levels = config.noise_schedule()
    return Method(
        build_choice(SAMPLER, request.sampler),
        build_choice(grids(levels), request.grid, steps=request.steps, levels=levels),
        build_choice(GUIDANCE, request.guidance),
    )


def _others(method: Method, stored: StoredModel) -> list[str]:
    """The further networks of the model that the guidance strategy runs.

    Raises:
        UsageError: the model lacks what the strategy needs.
        RunError: the file of such a network is damaged.
    """
    asked, unets = needed(method.strategy, method.sigmas), stored.located.others
    for query in asked:
        if fault := lacking(query, stored.config.name, True, stored.config.unet.layers, unets):
            raise UsageError(f"--guidance: {fault}")
    others = sorted({query.network for query in asked if query.network is not None})
    stored.check_others(others)
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


def _open(request: Request, stored: StoredModel, others: list[str]) -> Pipeline:
    dtype, tiles = getattr(torch, request.dtype), cast(Tiles, request.tiles)
    if request.offload:
        return Pipeline(load(stored, "cpu", dtype, others), request.device, tiles)
    model = load(stored, request.device, dtype, others)
    optimise_for_inference(model, request.compile)
    return Pipeline(model, tiles=tiles)


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
