"""What metrics need of a sweep, its model and the user's files; found out before anything is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from sdlab.metrics import METRICS, openai_clip, reference
from sdlab.metrics.files import MetricFiles
from sdlab.model.config import ModelConfig
from sdlab.system.resources import find
from sdlab.worlds.scenes import PIXELS

EVALUATOR = "data/scenes/evaluator.safetensors"
FEWEST = 4  # pictures without which FID and KID, with their standard errors, are not defined


def complaints(
    metrics: Sequence[str], config: ModelConfig, files: MetricFiles, pictures: int, inputs: bool
) -> list[str]:
    """Why metrics cannot be measured on `pictures` pictures of a model, a line each; files are another matter.

    `inputs`: whether each of them was made from an input picture.
    """
    found = []
    side, lab = config.image_size, by_evaluator(metrics, files)
    if lab and side != PIXELS:
        inception = "; for fid and kid name inception and reference in [metric_files]"
        found.append(
            f"metrics: {', '.join(lab)}: the lab evaluator looks at pictures of {PIXELS} × {PIXELS}, {config.name!r} "
            f"makes {side} × {side}" + inception * bool({"fid", "kid"} & set(lab))
        )
    if "clip_score" in metrics and files.clip is None and config.vision is None:
        found.append(
            f"metrics: clip_score needs a vision tower, which {config.name!r} lacks; OpenAI's CLIP can stand in, "
            "with clip in [metric_files]"
        )
    if {"fid", "kid"} & set(metrics) and pictures < FEWEST:
        found.append(f"images: fid and kid need at least {FEWEST} images a cell, got {pictures}")
    if files.reference is not None and files.inception is None:
        found.append("metric_files.reference: goes with inception; for the lab evaluator there are renders")
    if "kid" in metrics and files.inception and Path(files.reference or "").suffix == ".npz":
        found.append("metrics: kid compares with pictures, and metric_files.reference holds statistics alone")
    if not inputs and (named := [name for name in metrics if METRICS[name].of_input]):
        found.append(f"metrics: {', '.join(named)}: compared with input pictures, which not every prompt has")
    return found


def missing_files(metrics: Sequence[str], files: MetricFiles) -> list[str]:
    """The files that metrics need and that are not there, a line each."""
    found = []
    if by_evaluator(metrics, files) and not find(EVALUATOR).is_file():
        found.append(f"{EVALUATOR}: no such file; it is the lab evaluator of {', '.join(metrics)}")
    if {"fid", "kid"} & set(metrics) and files.inception is not None:
        place = Path(files.reference or "")
        if not Path(files.inception).is_file():
            found.append(
                f"metric_files.inception: {files.inception}: no such file; it should be the network of the FID paper, "
                "pt_inception-2015-12-05-6726825d.pth of the releases of torch-fidelity"
            )
        if find_spec("torch_fidelity") is None:
            found.append("metric_files.inception: needs the package torch-fidelity: pip install torch-fidelity")
        if files.reference is None:
            found.append("metric_files.reference: missing; it should be a folder of real pictures, or an .npz")
        elif not (place.is_file() or place.is_dir()):
            found.append(f"metric_files.reference: {place}: no such folder of real pictures, or .npz with mu and sigma")
        elif place.is_dir() and len(reference.pictures_in(place)) < FEWEST:
            found.append(f"metric_files.reference: {place}: holds fewer than {FEWEST} pictures")
    if "clip_score" in metrics and files.clip is not None:
        found += [f"metric_files.clip: {line}" for line in openai_clip.missing_files(Path(files.clip))]
    return found


def by_evaluator(metrics: Sequence[str], files: MetricFiles) -> list[str]:
    """The metrics among these that look at pictures through the lab evaluator."""
    distances = () if files.inception else ("fid", "kid")
    return [name for name in metrics if name in (*distances, "prompt_accuracy", "changes_made", "feature_distance")]
