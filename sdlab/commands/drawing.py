"""`sdlab generate`: a prompt, and if there is one a picture, to PNG files that carry what they were made with."""

from __future__ import annotations

from dataclasses import replace
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
from sdlab.commands.request import FIELD, Request
from sdlab.cpu.optimise import optimise_for_inference
from sdlab.model.config import ModelConfig
from sdlab.picture import FITS, Fit, read_picture, to_bytes
from sdlab.pipeline import TILES, Pipeline, Tiles, latent_shape, tail
from sdlab.report.contact_sheet import grid_of
from sdlab.system.device import enough_memory, resolve
from sdlab.system.errors import RunError, UsageError
from sdlab.system.files import add, make_folder
from sdlab.weights.model_loader import StoredModel, load, open_model

DTYPES = ("float32", "bfloat16", "float16")
STRENGTH = 0.6  # of an input picture, unless said otherwise
_CFG = {"scenes": 3.0}  # where a model is at its best; 7.5 is the usual scale of Stable Diffusion
_GAP, _WIDEST = 4, 4096  # pixels: between the pictures of a contact sheet, and of its longer side


def generate(request: Request, out: Path, console: Console) -> list[Path]:
    """Draw `request.n` pictures into `out`, and for more than one a contact sheet; existing files are never replaced.

    Pictures are drawn one at a time, so that each is bit by bit what its own command draws.

    Raises:
        UsageError: an option names nothing or has an impossible value; found before any weight is loaded.
        RunError: a file cannot be read or written, or the model gave NaN.
    """
    request = _checked(request)
    stored = open_model(request.source)
    request = _chosen(request, stored.config)
    picture = _input(request)
    make_folder(out)
    with _progress(console) as progress, enough_memory("a smaller --size, or --dtype bfloat16, needs less"):
        bar = progress.add_task(f"loading {request.model}", total=None)
        pipeline = _open(request, stored)
        for name, text in (("prompt", request.prompt), ("negative prompt", request.negative)):
            if cut := pipeline.model.tokenizer.cut(text):
                console.print(f"the {name} is too long, dropped from its end: {cut!r}", highlight=False, markup=False)
        cond, uncond = pipeline.encode([request.prompt]), pipeline.encode([request.negative])
        init = None if picture is None else pipeline.encode_image(picture)
        strength = 1.0 if request.strength is None else request.strength
        sigmas = samplers.grid(request.grid, steps=request.steps, levels=pipeline.levels)
        steps = len(tail(sigmas, strength)) - 1
        progress.reset(bar, total=request.n * steps)
        paths, small = list[Path](), list[Image.Image]()
        for i in range(request.n):
            progress.update(bar, description=f"picture {i + 1} of {request.n}")
            latents = pipeline.sample(
                cond, uncond, samplers.make(request.sampler), sigmas, guidance.make("cfg", scale=request.cfg),
                [request.seed + i], lambda *_: progress.advance(bar), request.size, init, strength,
            )  # fmt: skip
            if not latents.isfinite().all():
                raise RunError(f"the model gave NaN or infinity in {request.dtype}; try --dtype float32")
            drawn = _image(pipeline.decode(latents))
            paths.append(_write(drawn, replace(request, seed=request.seed + i, n=1), out, str(request.seed + i)))
            small.append(_shrunk(drawn, request.n))
    if request.n > 1:
        sheet = _write(grid_of(small, gap=_GAP), request, out, f"{request.seed}-to-{request.seed + request.n - 1}")
        console.print(f"contact sheet: {sheet}", highlight=False, markup=False, soft_wrap=True)
    return paths


def _progress(console: Console) -> Progress:
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("steps")
    return Progress(
        *columns, TimeRemainingColumn(),
        console=console, transient=True, redirect_stdout=False, disable=not console.is_terminal,
    )  # fmt: skip


def _checked(request: Request) -> Request:
    """The request with its device resolved, when nothing in it is wrong whatever the model.

    Raises:
        UsageError: the first thing that is.
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
    for option, number, least in (("-n", request.n, 1), ("--seed", request.seed, 0)):
        if number < least:
            raise UsageError(f"{option} must be at least {least}, got {number}")
    for option, given in (("--strength", request.strength), ("--fit", request.fit)):
        if given is not None and request.init_image is None:
            raise UsageError(f"{option} goes with --init-image: it says what to do with a picture")
    if request.compile and request.offload:
        raise UsageError("--compile and --offload exclude each other: a compiled network stays put")
    plugins.discover()
    own: dict[plugins.Kind, str] = {"sampler": request.sampler, "grid": request.grid}
    for kind, name in own.items():
        if plugins.is_path(name):
            plugins.add(kind, name)
    try:
        samplers.make(request.sampler)
        guidance.make("cfg", scale=1.0 if request.cfg is None else request.cfg)
    except ValueError as error:
        raise UsageError(str(error)) from None
    return replace(request, device=device)


def _chosen(request: Request, config: ModelConfig) -> Request:
    """The request with what the model chooses filled in.

    Raises:
        UsageError: the model cannot draw at this size, or with this grid.
    """
    size = request.size or (config.image_size, config.image_size)
    try:
        latent_shape(config, size)
    except ValueError as error:
        raise UsageError(f"--size: {error}") from None
    try:
        sigmas = samplers.grid(request.grid, steps=request.steps, levels=config.noise_schedule())
        tail(sigmas, 1.0 if request.strength is None else request.strength)
    except ValueError as error:
        raise UsageError(str(error)) from None
    cfg = _CFG.get(config.name, 7.5) if request.cfg is None else request.cfg
    if request.init_image is None:
        return replace(request, size=size, cfg=cfg)
    strength = STRENGTH if request.strength is None else request.strength
    return replace(request, size=size, cfg=cfg, strength=strength, fit=request.fit or "crop")


def _input(request: Request) -> Tensor | None:
    """The input picture as (1, 3, H, W), where there is one."""
    if request.init_image is None:
        return None
    assert request.size is not None
    try:
        return read_picture(Path(request.init_image).expanduser(), request.size, cast(Fit, request.fit))[None]
    except UsageError as error:
        raise UsageError(f"--init-image: {error}") from None


def _open(request: Request, stored: StoredModel) -> Pipeline:
    dtype, tiles = getattr(torch, request.dtype), cast(Tiles, request.tiles)
    if request.offload:
        return Pipeline(load(stored, "cpu", dtype), request.device, tiles)
    model = load(stored, request.device, dtype)
    optimise_for_inference(model, request.compile)
    return Pipeline(model, tiles=tiles)


def _image(decoded: Tensor) -> Image.Image:
    return Image.fromarray(to_bytes(decoded)[0].numpy())


def _shrunk(picture: Image.Image, n: int) -> Image.Image:
    """As large as it can be in a contact sheet of n."""
    scale = min(1.0, _WIDEST / (ceil(sqrt(n)) * (max(picture.size) + _GAP)))
    return picture.resize((max(1, int(picture.width * scale)), max(1, int(picture.height * scale))))


def _write(picture: Image.Image, request: Request, out: Path, ending: str) -> Path:
    """A PNG under a name not taken yet, with the request that draws it again in its text field."""
    words = "".join(c if c.isalnum() else "-" for c in request.prompt.lower())[:48].strip("-") or "picture"
    info = PngInfo()
    info.add_itxt(FIELD, request.to_text())
    return add(out / f"{words}-{ending}.png", lambda draft: picture.save(draft, format="PNG", pnginfo=info))
