"""`sdlab export MODEL OUT --to LAYOUT`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from sdlab.commands.paths import path_argument
from sdlab.system.output import remark, say

EXAMPLE = "sdlab export scenes --to diffusers my-scenes"


class Layout(StrEnum):
    """The layouts that `sdlab export` can write."""

    diffusers = "diffusers"  # a folder that diffusers and transformers open
    sdlab = "sdlab"  # a model folder like data/scenes
    original = "original"  # one file with the tensor names of Stable Diffusion v1's checkpoint


class Dtype(StrEnum):
    """The dtypes in which `sdlab export` can write weights."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


def command(
    model: Annotated[str, typer.Argument(help="name, file or folder of a model")],
    out: Annotated[Path, path_argument("a new folder; for the original layout, a new .safetensors file")],
    to: Annotated[Layout, typer.Option(help="the layout to write")],
    dtype: Annotated[Dtype | None, typer.Option(help="dtype of the weights  [default: as stored]")] = None,
) -> None:
    """Write a model in the layout of another tool. Existing files are never overwritten."""
    import torch

    from sdlab.weights.export import export

    for note in export(model, to.value, out, None if dtype is None else getattr(torch, dtype.value)):
        remark(f"note: {note}")
    say(out)
