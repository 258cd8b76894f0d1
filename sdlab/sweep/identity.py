"""What a plan is made from, down to the bytes of its files, and whether it can be run at all."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import torch

from sdlab.backends.custom import OwnPipeline
from sdlab.cpu.compiled import check_compiler
from sdlab.metrics import Subject, complaints, content_files, missing_files
from sdlab.metrics.base import Need
from sdlab.picture import opened
from sdlab.sweep.axes import MODEL
from sdlab.sweep.cell import canonical
from sdlab.sweep.plan import Plan
from sdlab.system.errors import RunError, UsageError
from sdlab.system.files import reason
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
    has: set[Need] = {"pictures", "prompts", "samples"}
    if all(plan.starts_from_a_picture(i) for i in range(len(plan.prompts))):
        has.add("inputs")
    subject = Subject(
        name=config.name,
        images=plan.images,
        has=frozenset(has),
        size=(config.image_size, config.image_size),
        prompts=plan.prompts,
        clip=config.vision is not None,
        from_noise=plan.pictures is None,
        files=plan.metric_files,
    )
    wrong = complaints(plan.metrics, subject)
    if plan.pictures is not None and plan.pictures.set is not None and config.image_size != PIXELS:
        wrong.append(
            f"image.set: its pictures are {PIXELS} × {PIXELS}, {config.name!r} makes {config.image_size} × "
            f"{config.image_size}; give init, a picture of any size"
        )
    if wrong:
        raise UsageError("\n".join(wrong))


def _wrong_with_own(plan: Plan) -> list[str]:
    """Why a model of one's own cannot be swept so, a line each."""
    own, model = plan.own, plan.own_model
    assert own is not None
    assert model is not None
    gaussian = model.law is not None and model.contexts is None
    subject = Subject(own.name, plan.images, frozenset[Need]({"samples"}), gaussian=gaussian, files=plan.metric_files)
    found = complaints(plan.metrics, subject)
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
    yield from content_files(plan.metrics, plan.metric_files)
    for file in plan.pictures.files if plan.pictures else ():
        if file is not None:
            yield Path(file)
