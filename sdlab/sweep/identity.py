"""What a plan is made from, down to the bytes of its files, and whether it can be run at all."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import torch

from sdlab.backends.custom import OwnPipeline
from sdlab.cpu.compiled import check_compiler
from sdlab.metrics import METRICS
from sdlab.metrics.meters import check_prompts
from sdlab.metrics.needs import EVALUATOR, complaints, missing_files
from sdlab.metrics.reference import pictures_in
from sdlab.picture import opened
from sdlab.sweep.axes import MODEL
from sdlab.sweep.cell import canonical
from sdlab.sweep.plan import Plan
from sdlab.system.errors import RunError, UsageError
from sdlab.system.files import reason
from sdlab.system.resources import find
from sdlab.weights.locate import locate
from sdlab.weights.model_loader import open_model
from sdlab.worlds.scenes import PIXELS


def identify(plan: Plan) -> str:
    """The model of a plan and all other files it reads down to their content: a name and a digest.

    Raises:
        UsageError: the model or a file is missing, or a metric cannot be measured; the message has a line for each.
        RunError: the model's files are damaged.
    """
    check(plan)
    content, digests = hashlib.sha256(), dict[Path, bytes]()
    if plan.own is not None:
        content.update(canonical(plan.own.complete(MODEL)).encode())
    for path in _files(plan):
        digests[path] = digests.get(path) or _digest(path)  # one picture may serve every prompt
        content.update(digests[path])
    return f"{Path(plan.own.name if plan.own else plan.model).name} {content.hexdigest()[:16]}"


def _digest(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except OSError as error:
        raise RunError(f"cannot read {path}: {reason(error)}") from None


def check(plan: Plan) -> None:
    """Raises as `identify` does; loads no weights, but for those of a model of the user's own."""
    if plan.own is not None:
        if wrong := _wrong_with_own(plan):
            raise UsageError("\n".join(wrong))
        return
    missing: list[str] = []
    try:
        locate(plan.source)
    except UsageError as error:
        missing += error.lines
    if plan.compile:
        try:
            check_compiler(torch.device(plan.device))
        except UsageError as error:
            missing.append(str(error))
    missing += missing_files(plan.metrics, plan.metric_files)
    for file in dict.fromkeys(plan.pictures.files if plan.pictures else ()):
        try:
            if file is not None:
                with opened(Path(file)) as picture:
                    picture.load()
        except UsageError as error:
            missing.append(f"image: {error}")
    if missing:
        raise UsageError("\n".join(missing))
    config = open_model(plan.source).config
    inputs = all(plan.starts_from_a_picture(i) for i in range(len(plan.prompts)))
    wrong = complaints(plan.metrics, config, plan.metric_files, plan.images, inputs)
    if plan.pictures is not None and plan.pictures.set is not None and config.image_size != PIXELS:
        wrong.append(
            f"image.set: its pictures are {PIXELS} × {PIXELS}, {config.name!r} makes {config.image_size} × "
            f"{config.image_size}; give init, a picture of any size"
        )
    if "w2" in plan.metrics:
        wrong.append(f'metrics: w2: the law of the data is not known to {config.name!r}; it is to model "gaussian"')
    if "reference_error" in plan.metrics and plan.pictures is not None:
        wrong.append("metrics: reference_error: is of samples from noise, and these start from pictures")
    if wrong:
        raise UsageError("\n".join(wrong))
    if {"prompt_accuracy", "changes_made"} & set(plan.metrics):
        check_prompts(plan.prompts)


def _wrong_with_own(plan: Plan) -> list[str]:
    """Why a model of one's own cannot be swept so, a line each."""
    own, model = plan.own, plan.own_model
    assert own is not None
    assert model is not None
    found = []
    if asked := [name for name in plan.metrics if METRICS[name].of_pictures]:
        text = "of pictures and prompts, which only text-to-image models have; there is"
        known = "reference_error" if model.law is None else "reference_error, w2"
        found.append(f"metrics: {', '.join(asked)}: {text} {known}")
    if "w2" in plan.metrics and (model.law is None or model.contexts is not None):
        found.append(f"metrics: w2: model {own.name} does not say that its data are Gaussian")
    if not plan.metrics and model.decode is None:
        found.append(f'metrics: model {own.name} draws no pictures; ask for numbers, like ["reference_error"]')
    guided = dict.fromkeys(cell.guidance.label for cell in plan.cells if cell.guidance.name != "none")
    if guided and model.contexts is None:
        found.append(f'guidance: {", ".join(guided)}: model {own.name} has no conditions; it runs with "none"')
    try:
        OwnPipeline(own.name, own.options, plan.device).try_out()
    except UsageError as error:
        found.append(f"model: {error}")
    return found


def _files(plan: Plan) -> Iterator[Path]:
    """All files whose content the numbers depend on, in an order that depends on nothing else."""
    if (own := plan.own_model) is not None:
        yield from map(Path, own.files)
        return
    yield from locate(plan.source).files
    yield find(EVALUATOR)
    for path in map(Path, plan.metric_files.given.values()):
        yield from (pictures_in(path) or _inside(path)) if path.is_dir() else [path]
    for file in plan.pictures.files if plan.pictures else ():
        if file is not None:
            yield Path(file)


def _inside(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_file())
