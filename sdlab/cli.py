"""The command line: `sdlab sweep | report | generate | show | train | export | certify | new | list`.

Heavy imports wait until a command needs them, so that `--help` and a slip in an option are answered at once.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from sdlab.system.errors import SdlabError

app = typer.Typer(
    name="sdlab",
    help="A research testbed for diffusion sampling: which sampler, how many steps, which guidance, on which grid, "
    "at what cost, and is the difference real?",
    epilog="Start with: sdlab sweep experiments/cfg_vs_steps.toml",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


class Listed(StrEnum):
    """What `sdlab list` can list."""

    samplers = "samplers"
    grids = "grids"
    guidance = "guidance"
    metrics = "metrics"
    models = "models"


class StageOption(StrEnum):
    """What `sdlab train` can train."""

    text = "text"
    clip = "clip"
    vae = "vae"
    unet = "unet"
    evaluator = "evaluator"


class New(StrEnum):
    """What `sdlab new` can write."""

    sampler = "sampler"


class DtypeOption(StrEnum):
    """In what `sdlab export` can write weights."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


class LayoutOption(StrEnum):
    """What `sdlab export` can write."""

    diffusers = "diffusers"  # a folder that diffusers and transformers open
    sdlab = "sdlab"  # a model folder like data/scenes
    original = "original"  # one file with the names of Stable Diffusion v1's checkpoint


@app.command(epilog="Example: sdlab sweep experiments/cfg_vs_steps.toml --dry-run")
def sweep(
    file: Annotated[Path, typer.Argument(help="the sweep, a TOML file; those that come with sdlab are found anywhere")],
    out: Annotated[Path, typer.Option(help="folder of run directories")] = Path("runs"),
    dry_run: Annotated[bool, typer.Option("--dry-run", help="only list the cells and estimate the time")] = False,
    images: Annotated[int | None, typer.Option(help="images a cell, instead of the file's")] = None,
    seed: Annotated[int | None, typer.Option(help="first seed, instead of the file's")] = None,
    batch: Annotated[int | None, typer.Option(help="images at once, instead of the file's")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu or cuda, instead of the file's")] = None,
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16 or float16, instead of the file's")] = None,
    model: Annotated[
        str | None, typer.Option(help="a model's name, file, folder or file.py:function, instead of the file's")
    ] = None,
    compile: Annotated[
        bool, typer.Option("--compile", help="compile the U-Net: minutes before the first cell; for GPUs")
    ] = False,
) -> None:
    """Run every cell of a sweep that is not there yet, then draw table, contact sheet and plots."""
    from sdlab.commands.sweep import sweep as run
    from sdlab.sweep.bench import LabBench
    from sdlab.sweep.identity import identify

    given = {"images": images, "seed": seed, "batch": batch, "device": device, "dtype": dtype, "model": model}
    given["compile"] = compile or None  # without the option the file decides
    overrides = {key: value for key, value in given.items() if value is not None}
    raise typer.Exit(run(file, identify, LabBench, out=out, dry_run=dry_run, overrides=overrides))


@app.command(epilog="Example: sdlab report runs/cfg_vs_steps")
def report(directory: Annotated[Path, typer.Argument(help="a run directory")]) -> None:
    """Draw table, contact sheet and plots of a run again, from its store alone."""
    from sdlab.report.report import report as draw

    draw(directory, Console())


@app.command(
    epilog='Example: sdlab generate "a red circle above a large blue star on grey" --sampler dpmpp_2m --steps 10 -n 8'
)
def generate(
    prompt: Annotated[str, typer.Argument(help="what to draw")],
    negative: Annotated[str, typer.Option(help="what guidance leads away from")] = "",
    model: Annotated[str, typer.Option(help="a model's name, file or folder")] = "scenes",
    weights: Annotated[str | None, typer.Option(help="sd15's weights, a file or folder")] = None,
    vocab: Annotated[str | None, typer.Option(help="the model's vocab.json")] = None,
    merges: Annotated[str | None, typer.Option(help="the model's merges.txt")] = None,
    init_image: Annotated[Path | None, typer.Option(help="a picture to start from")] = None,
    strength: Annotated[float | None, typer.Option(help="0 keeps the picture, 1 ignores it  [default: 0.6]")] = None,
    fit: Annotated[str | None, typer.Option(help="bring it to size: crop or pad  [default: crop]")] = None,
    size: Annotated[str | None, typer.Option(help="like 512x384; multiples of 8  [default: the model's]")] = None,
    sampler: Annotated[str, typer.Option(help="see sdlab list samplers")] = "dpmpp_2m",
    grid: Annotated[str, typer.Option(help="see sdlab list grids")] = "trailing",
    steps: Annotated[int, typer.Option(help="steps of the sampler")] = 20,
    cfg: Annotated[float | None, typer.Option(help="CFG scale; 1: no guidance  [default: the model's]")] = None,
    seed: Annotated[int, typer.Option(help="seed of the first picture; the next have seed + 1, …")] = 0,
    n: Annotated[int, typer.Option("-n", help="how many pictures")] = 1,
    out: Annotated[Path, typer.Option(help="folder for the pictures")] = Path("out/generate"),
    device: Annotated[str, typer.Option(help="auto, cpu or cuda")] = "auto",
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16")] = "float32",
    offload: Annotated[bool, typer.Option("--offload", help="only the network in use is on the device")] = False,
    compile: Annotated[
        bool, typer.Option("--compile", help="compile the U-Net: minutes before the first step; for GPUs")
    ] = False,
    tiles: Annotated[str, typer.Option(help="the VAE in tiles: auto (large pictures), always or never")] = "auto",
) -> None:
    """Draw pictures of a prompt, or of a prompt and a picture, as PNGs that carry their parameters."""
    from sdlab.commands.generate import generate as draw
    from sdlab.commands.request import Request, parse_size

    request = Request(
        prompt=prompt,
        negative=negative,
        model=model,
        weights=weights,
        vocab=vocab,
        merges=merges,
        init_image=None if init_image is None else str(init_image),
        strength=strength,
        fit=fit,
        size=None if size is None else parse_size(size),
        sampler=sampler,
        grid=grid,
        steps=steps,
        cfg=cfg,
        seed=seed,
        n=n,
        device=device,
        dtype=dtype,
        offload=offload,
        compile=compile,
        tiles=tiles,
    )
    for path in draw(request, out, Console(stderr=True)):
        print(path)


@app.command(epilog="Example: sdlab show out/generate/a-red-circle-0.png")
def show(image: Annotated[Path, typer.Argument(help="a PNG that sdlab generate has written")]) -> None:
    """Print the parameters of a picture, and the command that makes it again."""
    from sdlab.commands.show import show as read

    print("\n".join(read(image).lines()))


@app.command(epilog="Example: sdlab train vae experiments/train/vae.toml")
def train(
    stage: Annotated[StageOption, typer.Argument(help="what to train")],
    config: Annotated[Path, typer.Argument(help="the run, a TOML file like those in experiments/train")],
) -> None:
    """Train a part of the lab model; the same command continues an interrupted run."""
    from sdlab.train import run

    for name, value in run(stage.value, config, Console()).items():
        print(f"{name} {value:.5g}")


@app.command("export", epilog="Example: sdlab export scenes --to diffusers my-scenes")
def export_(
    model: Annotated[str, typer.Argument(help="a model's name, file or folder")],
    out: Annotated[Path, typer.Argument(help="a new folder, or for original a new .safetensors file")],
    to: Annotated[LayoutOption, typer.Option(help="the layout to write")],
    dtype: Annotated[DtypeOption | None, typer.Option(help="of the weights  [default: as stored]")] = None,
) -> None:
    """Write a model in the layout of another tool; what is there is never written over."""
    import torch

    from sdlab.commands.export import export

    for remark in export(model, to.value, out, None if dtype is None else getattr(torch, dtype.value)):
        print(remark, file=sys.stderr)
    print(out)


@app.command(epilog="Example: sdlab certify dpmpp_2m my_sampler.py:MySampler")
def certify(
    names: Annotated[list[str] | None, typer.Argument(help="samplers, or file.py:Class; all by default")] = None,
    out: Annotated[Path, typer.Option(help="folder for certificates.json and certificates.png")] = Path("out/certify"),
    page: Annotated[Path | None, typer.Option(help="also write a page, like docs/samplers.md")] = None,
) -> None:
    """Measure what samplers claim (order, calls, memory) on problems that are solved exactly."""
    from sdlab.commands.certify import run

    wide = None if sys.stdout.isatty() else 140  # a file or a pipe has no width of its own
    raise typer.Exit(run(names or [], out, Console(width=wide), page))


@app.command(epilog="Example: sdlab new sampler my_sampler")
def new(
    kind: Annotated[New, typer.Argument(help="what to start")],
    name: Annotated[str, typer.Argument(help="its name, which the file takes")],
    out: Annotated[Path, typer.Option(help="folder for the file")] = Path(),
) -> None:
    """Write a sampler to start from, in one commented file that runs."""
    from sdlab.commands.new import new_sampler

    path = new_sampler(name, out)
    print(path)


@app.command("list", epilog="Example: sdlab list samplers")
def list_(what: Annotated[Listed, typer.Argument(help="what to list")]) -> None:
    """List what can stand in a sweep, a line each."""
    lines = _lists(what)
    width = max(18, *(len(name) + 2 for name, _ in lines))
    for name, about in lines:
        print(f"{name:<{width}}{about}")


def _lists(what: Listed) -> list[tuple[str, str]]:
    import samplers
    from sdlab import plugins
    from sdlab.guidance import GUIDANCE
    from sdlab.metrics import METRICS
    from sdlab.weights.locate import MODELS

    plugins.discover()
    if what is Listed.metrics:
        return [(m.name, f"{m.label}, {m.better} is better: {m.about}") for m in METRICS.values()]
    if what is Listed.models:
        own = [(name, samplers.describe(entry)) for name, entry in sorted(plugins.MODELS.items())]
        return [*MODELS.items(), *own]
    registries: dict[Listed, Mapping[str, Callable[..., object]]]
    registries = {Listed.samplers: samplers.SAMPLERS, Listed.grids: samplers.GRIDS, Listed.guidance: GUIDANCE}
    return [(name, samplers.describe(entry)) for name, entry in sorted(registries[what].items())]


def main() -> None:
    """Entry point: errors of ours are one line each on stderr, with their exit status."""
    try:
        app()
    except SdlabError as error:
        for line in str(error).splitlines():
            print(f"error: {line}", file=sys.stderr)
        sys.exit(error.status)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
