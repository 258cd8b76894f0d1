"""`sdlab generate`: a prompt to PNG files that carry all parameters they were made with."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from rich.console import Console
from rich.progress import Progress

import samplers
import sdlab
from sdlab import guidance
from sdlab.device import resolve
from sdlab.errors import RunError, UsageError
from sdlab.files import reason, replacing
from sdlab.model.model_loader import load
from sdlab.pipeline import Pipeline, to_bytes

DTYPES = ("float32", "bfloat16", "float16")
_BATCH = 16  # pictures at once


@dataclass(frozen=True)
class Request:
    """What to draw and how."""

    prompt: str
    negative: str = ""
    model: str = "scenes"
    sampler: str = "dpmpp_2m"
    grid: str = "trailing"
    steps: int = 20
    cfg: float = 3.0
    seed: int = 0
    n: int = 1
    device: str = "auto"
    dtype: str = "float32"


def generate(request: Request, out: Path, console: Console) -> list[Path]:
    """Draw `request.n` pictures into `out`; existing files are never replaced.

    Raises:
        UsageError: an option names nothing or has an impossible value; found before any weight is loaded.
        RunError: a file cannot be read or written, or the model gave NaN.
    """
    try:
        device = resolve(request.device)
    except ValueError as error:
        raise UsageError(f"--device: {error}") from None
    if request.dtype not in DTYPES:
        raise UsageError(f"--dtype must be one of {', '.join(DTYPES)}, got {request.dtype!r}")
    for option, value, least in (("-n", request.n, 1), ("--seed", request.seed, 0)):
        if value < least:
            raise UsageError(f"{option} must be at least {least}, got {value}")
    try:
        rule = samplers.make(request.sampler)
        strategy = guidance.make("cfg", scale=request.cfg)
        samplers.grid(request.grid, steps=request.steps, levels=samplers.discrete_levels())
    except ValueError as error:
        raise UsageError(str(error)) from None
    pipeline = Pipeline(load(request.model, device, getattr(torch, request.dtype)))
    sigmas = samplers.grid(request.grid, steps=request.steps, levels=pipeline.levels)
    if cut := pipeline.model.tokenizer.cut(request.prompt):
        console.print(f"the prompt is too long, dropped from its end: {cut!r}", highlight=False, markup=False)
    cond, uncond = pipeline.encode([request.prompt]), pipeline.encode([request.negative])
    paths: list[Path] = []
    with Progress(console=console, transient=True) as progress:
        bar = progress.add_task("sampling", total=request.n * (len(sigmas) - 1))
        for start in range(0, request.n, _BATCH):
            seeds = range(request.seed + start, request.seed + min(start + _BATCH, request.n))
            contexts = cond.expand(len(seeds), -1, -1), uncond.expand(len(seeds), -1, -1)
            latents = pipeline.sample(
                *contexts, rule, sigmas, strategy, seeds,
                on_step=lambda *_: progress.advance(bar, len(seeds)),  # noqa: B023 (called at once)
            )  # fmt: skip
            if not latents.isfinite().all():
                raise RunError(f"the model gave NaN or infinity in {request.dtype}; try --dtype float32")
            for seed, picture in zip(seeds, to_bytes(pipeline.decode(latents)).numpy(), strict=True):
                paths.append(_write(picture, request, seed, out))
    return paths


def _write(picture: NDArray[np.uint8], request: Request, seed: int, out: Path) -> Path:
    """A PNG under a name not taken yet, with the parameters of this one picture as JSON in its `sdlab` text field."""
    words = "".join(c if c.isalnum() else "-" for c in request.prompt.lower())[:48].strip("-") or "picture"
    path, copy = out / f"{words}-{seed}.png", 1
    while path.exists():
        copy += 1
        path = out / f"{words}-{seed}-{copy}.png"
    info = PngInfo()
    info.add_itxt("sdlab", json.dumps({"version": sdlab.__version__, **asdict(request), "seed": seed, "n": 1}))
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"cannot write to {out}: {reason(error)}") from None
    with replacing(path) as draft:
        Image.fromarray(picture).save(draft, format="PNG", pnginfo=info)
    return path
