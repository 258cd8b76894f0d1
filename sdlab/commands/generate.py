"""`sdlab generate PROMPT`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sdlab.commands.paths import path_option
from sdlab.system.output import say

EXAMPLE = 'sdlab generate "a red circle above a large blue star on grey" --sampler dpmpp_2m --steps 10 -n 8'


def command(
    prompt: Annotated[str, typer.Argument(help="what to draw")],
    negative: Annotated[str, typer.Option(help="negative prompt: what guidance steers away from")] = "",
    model: Annotated[str, typer.Option(help="name, file or folder of a model, or diffusers:FOLDER_OR_FILE")] = "scenes",
    weights: Annotated[str | None, typer.Option(help="file or folder with the model's weights")] = None,
    vocab: Annotated[str | None, typer.Option(help="vocab.json of the model")] = None,
    merges: Annotated[str | None, typer.Option(help="merges.txt of the model")] = None,
    init_image: Annotated[Path | None, path_option("a picture to start from")] = None,
    strength: Annotated[
        float | None,
        typer.Option(help="0 keeps the picture, 1 ignores it  [default: 0.6; 1 with --invert, which keeps it]"),
    ] = None,
    fit: Annotated[
        str | None, typer.Option(help="how to fit the picture: crop, pad or stretch  [default: crop]")
    ] = None,
    invert: Annotated[
        bool, typer.Option("--invert", help="start from the noise that the picture is drawn from, found by inversion")
    ] = False,
    caption: Annotated[str | None, typer.Option(help="what the picture to invert shows  [default: the prompt]")] = None,
    size: Annotated[
        str | None, typer.Option(help="width x height in pixels, multiples of 8, like 512x384  [default: the model's]")
    ] = None,
    sampler: Annotated[
        str | None,
        typer.Option(
            help="a sampler with its options, like ddim:eta=0.5; see sdlab list samplers  "
            "[default: dpmpp_2m; with --invert bdia]"
        ),
    ] = None,
    grid: Annotated[
        str | None,
        typer.Option(
            help="a grid with its options, like karras:rho=5; see sdlab list grids  "
            "[default: trailing; with --invert karras that ends above 0]"
        ),
    ] = None,
    steps: Annotated[int, typer.Option(help="number of steps of the sampler")] = 20,
    guidance: Annotated[
        str | None,
        typer.Option(
            help='a guidance strategy with its options, like cfg:scale=5,interval=[0.3,5] or "cfg scale=5"; '
            "see sdlab list guidance  [default: cfg at the model's scale; none with --invert]"
        ),
    ] = None,
    cfg: Annotated[
        float | None, typer.Option(help="short for --guidance cfg:scale=…; 1 is the plain conditional model")
    ] = None,
    seed: Annotated[int, typer.Option(help="seed of the first picture; the next ones use seed + 1, seed + 2, …")] = 0,
    n: Annotated[int, typer.Option("-n", help="number of pictures")] = 1,
    out: Annotated[Path, path_option("folder for the pictures")] = Path("out/generate"),
    device: Annotated[str, typer.Option(help="auto, cpu or cuda")] = "auto",
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16")] = "float32",
    offload: Annotated[bool, typer.Option("--offload", help="keep only the network in use on the device")] = False,
    compile: Annotated[
        bool, typer.Option("--compile", help="compile the U-Net, for GPUs; takes minutes before the first step")
    ] = False,
    tiles: Annotated[
        str, typer.Option(help="run the VAE in tiles: auto (for large pictures), always or never")
    ] = "auto",
) -> None:
    """Draw pictures of a prompt as PNG files.

    With --init-image, changes a picture to follow the prompt; with --invert, from the noise that the picture is drawn
    from with its caption. Each file stores its parameters; see sdlab show. Samplers, grids and guidance strategies may
    be custom, like my_guidance.py:Fading:scale=3.
    """
    from rich.console import Console

    from sdlab.commands.drawing import generate
    from sdlab.commands.request import Request, parse_size
    from sdlab.system.errors import UsageError

    if cfg is not None:
        if guidance is not None:
            raise UsageError(f"--cfg and --guidance cannot be combined; write --guidance cfg:scale={cfg:g}")
        guidance = f"cfg scale={cfg}"
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
        invert=invert,
        caption=caption,
        size=None if size is None else parse_size(size),
        sampler=sampler or ("bdia" if invert else "dpmpp_2m"),
        grid=grid or ("karras ending=stop_at_sigma_min" if invert else "trailing"),
        steps=steps,
        guidance=guidance,
        seed=seed,
        n=n,
        device=device,
        dtype=dtype,
        offload=offload,
        compile=compile,
        tiles=tiles,
    )
    for path in generate(request, out, Console(stderr=True)):
        say(path)
