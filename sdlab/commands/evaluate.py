"""`sdlab evaluate DIR…`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sdlab.commands.paths import path_argument, path_option

EXAMPLE = "sdlab evaluate out/mine out/theirs --prompts prompts.txt --real photos --inception weights.pth"


def command(
    folders: Annotated[list[Path], path_argument("folders of pictures, each of one size")],
    prompts: Annotated[Path | None, path_option("a text file with one prompt per picture")] = None,
    real: Annotated[
        Path | None, path_option("real pictures for FID, KID and others: a folder, or with a network an .npz file")
    ] = None,
    inputs: Annotated[Path | None, path_option("a folder with one input picture per picture")] = None,
    captions: Annotated[Path | None, path_option("a text file with one caption per input picture")] = None,
    metrics: Annotated[
        str | None, typer.Option(metavar="<names>", help="like fid,kid; by default all possible")
    ] = None,
    inception: Annotated[Path | None, path_option("weights of the FID paper's Inception network")] = None,
    dinov2: Annotated[Path | None, path_option("a folder with a DINOv2, for FID, KID and others in its space")] = None,
    clip: Annotated[Path | None, path_option("a folder with OpenAI's CLIP, for metrics in its space")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda")] = "auto",
    format: Annotated[
        str | None, typer.Option(metavar="<name>", help="table, md, csv, json, parquet, latex or html, on stdout")
    ] = None,
) -> None:
    """Measure pictures of any tool, with the metrics and intervals of a sweep.

    Pictures are taken in the natural order of their paths, 2.png before 10.png, and prompt i belongs to picture i.
    Several folders are compared picture by picture. Without --inception or --dinov2, FID and KID use the lab
    evaluator, which reads 64 × 64 pictures, and compare with --real or with renders.
    """
    from rich.console import Console

    from sdlab.metrics import MetricFiles
    from sdlab.metrics.folder import open_folder
    from sdlab.report.evaluate import evaluate
    from sdlab.report.view import check_format, print_as
    from sdlab.sweep.prompts import prompts_in
    from sdlab.system.device import resolve
    from sdlab.system.errors import UsageError

    form = check_format(format)
    try:
        place = resolve(device)
    except ValueError as error:
        raise UsageError(f"--device: {error}") from None
    lines = None if prompts is None else prompts_in(prompts)
    given = {"inception": inception, "dinov2": dinov2, "reference": real, "clip": clip}
    files = MetricFiles(**{key: str(path) for key, path in given.items() if path is not None})
    names = list(dict.fromkeys(name.strip() for name in (metrics or "").split(",") if name.strip()))
    described = None if captions is None else prompts_in(captions)
    opened = [open_folder(folder, lines, inputs, files, described) for folder in folders]
    try:
        table = evaluate(opened, names, files, place)
    except UsageError as error:
        raise UsageError(*map(_with_options, error.lines)) from None
    print_as(form, table, Console(), "evaluation")


def _with_options(line: str) -> str:
    """A message with the options of this command in place of the keys of a sweep file."""
    options = {"inception": "--inception", "dinov2": "--dinov2", "reference": "--real", "clip": "--clip"}
    for key, option in options.items():
        line = line.replace(f"metric_files.{key}", option)
    return line
