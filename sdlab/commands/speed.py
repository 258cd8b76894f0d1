"""The speed of a model's networks, beside the peaks of the machine (Williams et al. 2009, the roofline model)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from sdlab.commands.drawing import DTYPES
from sdlab.cpu.optimise import optimise_for_inference
from sdlab.model.clip import Clip
from sdlab.model.config import ModelConfig
from sdlab.model.stable_diffusion import StableDiffusion, networks
from sdlab.model.vae import Vae
from sdlab.report.columns import Column, Field, Table
from sdlab.system.console import line
from sdlab.system.device import enough_memory, resolve, resolve_dtype
from sdlab.system.errors import UsageError
from sdlab.system.limits import BATCH, Range
from sdlab.system.other_work import UNDISTURBED, OtherWork
from sdlab.weights.model_loader import load, open_model

MATRIX, CONVOLUTION = "matrix product", "3 × 3 convolution"
_ROUNDS = Range(2, 10_000)
# The side of square matrices, and the batch, channels and side of a convolution: large enough for the peak.
_PEAKS = {"cpu": (1024, (1, 256, 64)), "cuda": (8192, (32, 320, 64))}


@dataclass(frozen=True)
class Setting:
    """The options of `sdlab bench`."""

    model: str
    batch: int
    rounds: int
    device: str
    dtype: str
    compile: bool


@dataclass(frozen=True)
class Part:
    """A computation that is timed: one call, and its floating-point operations."""

    run: Callable[[], object]
    flops: float
    images: int | None = None  # of the model, per call


def speed(setting: Setting, console: Console) -> Table:
    """One row per part: the two peaks, and the text encoder, a network pass and the decoder of the model.

    Raises:
        UsageError: an option is invalid, or the model is not found.
        RunError: the model cannot be read, or memory runs out.
    """
    BATCH.check("--batch", setting.batch)
    _ROUNDS.check("--rounds", setting.rounds)
    if setting.dtype not in DTYPES:
        raise UsageError(f"--dtype must be one of {', '.join(DTYPES)}, got {setting.dtype!r}")
    try:
        device = resolve(setting.device)
    except ValueError as error:
        raise UsageError(f"--device: {error}") from None
    dtype = getattr(torch, resolve_dtype(setting.dtype, device))
    stored = open_model(setting.model)
    with enough_memory("use a smaller --batch"), torch.inference_mode():
        model = optimise_for_inference(load(stored, device, dtype), setting.compile)
        parts = {**_peaks(torch.device(device), dtype), **_networks(model, setting.batch)}
        others = OtherWork()
        times = _timed(parts, setting.rounds, torch.device(device), console)
    if (share := others.share()) is not None and share > UNDISTURBED:
        line(
            console,
            f"note: other programs used {share:.0%} of the processor; the times are not those of a quiet machine",
        )
    return _table(stored.config.name, setting, parts, times, device, dtype)


def _peaks(device: torch.device, dtype: torch.dtype) -> dict[str, Part]:
    """The two computations that stand for the peak of the machine."""
    side, (batch, channels, width) = _PEAKS.get(device.type, _PEAKS["cpu"])
    a, b = torch.randn(2, side, side, device=device).to(dtype)
    x = torch.randn(batch, channels, width, width, device=device).to(dtype, memory_format=torch.channels_last)
    kernel = torch.randn(channels, channels, 3, 3, device=device).to(dtype, memory_format=torch.channels_last)
    return {
        MATRIX: Part(lambda: a @ b, 2 * side**3),
        CONVOLUTION: Part(lambda: F.conv2d(x, kernel, padding=1), 2 * 9 * channels**2 * width**2 * batch),
    }


def _networks(model: StableDiffusion, batch: int) -> dict[str, Part]:
    """The parts of the model on `batch` pictures of its own size."""
    config, device = model.config, model.device
    inputs = _inputs(config, batch)
    flops = operations(config)
    tokens, x, t, context = (value.to(device) for value in inputs)
    x, context = x.to(model.dtype), context.to(model.dtype)
    return {
        "text encoder": Part(lambda: model.text(tokens), flops["clip"] * batch, batch),
        "network pass": Part(lambda: model.unet(x, t, context), flops["unet"] * batch, batch),
        "VAE decoder": Part(lambda: model.vae.decode(x), flops["vae"] * batch, batch),
    }


def _inputs(config: ModelConfig, batch: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Tokens, latents, timesteps and contexts."""
    length, width = config.text.context_length, config.text.width
    return (
        torch.zeros(batch, length, dtype=torch.long),
        torch.randn(batch, *config.latent_shape),
        torch.full((batch,), 500.0),
        torch.randn(batch, length, width),
    )


def operations(config: ModelConfig) -> Mapping[str, int]:
    """The floating-point operations of the text encoder, a U-Net pass and the VAE decoder, for one picture.

    A multiplication and an addition are two. They are counted on networks without weights, in their plain form.
    """
    with torch.device("meta"):
        modules = networks(config)
        tokens, x, t, context = _inputs(config, 1)
        clip, vae = modules["clip"], modules["vae"]
        text = clip.text if isinstance(clip, Clip) else clip
        assert isinstance(vae, Vae)
        calls: dict[str, Callable[[], object]] = {
            "clip": lambda: text(tokens),
            "unet": lambda: modules["unet"](x, t, context),
            "vae": lambda: vae.decode(x),
        }
        found = {}
        for name, call in calls.items():
            with FlopCounterMode(display=False) as counter:
                call()
            found[name] = counter.get_total_flops()
    return found


def _timed(parts: Mapping[str, Part], rounds: int, device: torch.device, console: Console) -> NDArray[np.floating]:
    """Seconds per call, (parts, rounds), in turns. A first round is left out."""
    seconds = np.empty((len(parts), rounds + 1))
    turns = track(range(rounds + 1), "timing", console=console, transient=True, disable=not console.is_terminal)
    for turn in turns:
        for row, part in enumerate(parts.values()):
            _wait(device)
            start = perf_counter()
            part.run()
            _wait(device)
            seconds[row, turn] = perf_counter() - start
    return seconds[:, 1:]


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _table(
    name: str,
    setting: Setting,
    parts: Mapping[str, Part],
    times: NDArray[np.floating],
    device: str,
    dtype: torch.dtype,
) -> Table:
    low, middle, high = np.quantile(times, [0.25, 0.5, 0.75], axis=1)
    rates = np.array([part.flops for part in parts.values()]) / middle / 1e9
    peak = rates[list(parts).index(CONVOLUTION)]
    images = np.array([part.images or np.nan for part in parts.values()])
    per_image = [
        ("gflop_per_image", "GFLOP/image", [part.flops / 1e9 for part in parts.values()] / images, "{:.3g}"),
        ("ms_per_image", "ms/image", 1000 * middle / images, "{:#.3g}"),
    ]
    per_call = [
        ("ms_low", "from ms", 1000 * low, "{:#.3g}"),
        ("ms", "ms", 1000 * middle, "{:#.3g}"),
        ("ms_high", "to ms", 1000 * high, "{:#.3g}"),
        ("gflops", "GFLOP/s", rates, "{:.0f}"),
        ("share_of_peak", "% of peak", 100 * rates / peak, "{:.0f}"),
    ]
    columns = [Column("part", "part", tuple(parts), tuple(map(Field, parts)), left=True)]
    columns += [_numbers(*one) for one in (*per_image, *per_call)]
    threads = f", {torch.get_num_threads()} threads" if device == "cpu" else ""
    return Table(
        f"speed of {name}",
        tuple(columns),
        (
            f"{setting.batch} pictures per call, {str(dtype).removeprefix('torch.')} on {device}{threads}, "
            f"medians of {setting.rounds} rounds with their quartiles.",
            "% of peak: the share of the convolution's speed. More than 100 is possible where a network needs fewer "
            "operations than are counted, as with Winograd's algorithm.",
        ),
    )


def _numbers(name: str, heading: str, values: Sequence[float] | NDArray[np.floating], form: str) -> Column:
    known = [float(value) if np.isfinite(value) else None for value in values]
    return Column(name, heading, tuple(known), tuple(Field("–" if v is None else form.format(v)) for v in known))
