"""What a plan is made from, down to the bytes of its files, and whether it can be run at all."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from sdlab.errors import RunError, UsageError
from sdlab.files import reason
from sdlab.metrics.meters import check_prompts
from sdlab.metrics.needs import EVALUATOR, complaints, missing_files
from sdlab.metrics.reference import pictures_in
from sdlab.model.model_loader import model_files, open_model
from sdlab.picture import opened
from sdlab.resources import find
from sdlab.scenes import PIXELS
from sdlab.sweep.plan import Plan


def identify(plan: Plan) -> str:
    """The model of a plan and all other files it reads down to their content: a name and a digest.

    Raises:
        UsageError: the model or a file is missing, or a metric cannot be measured; the message has a line for each.
        RunError: the model's files are damaged.
    """
    check(plan)
    content, digests = hashlib.sha256(), dict[Path, bytes]()
    for path in _files(plan):
        digests[path] = digests.get(path) or _digest(path)  # one picture may serve every prompt
        content.update(digests[path])
    return f"{Path(plan.model).name} {content.hexdigest()[:16]}"


def _digest(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except OSError as error:
        raise RunError(f"cannot read {path}: {reason(error)}") from None


def check(plan: Plan) -> None:
    """Raises as `identify` does; loads no weights."""
    missing: list[str] = []
    try:
        model_files(plan.source)
    except UsageError as error:
        missing += str(error).splitlines()
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
    if wrong:
        raise UsageError("\n".join(wrong))
    if {"prompt_accuracy", "changes_made"} & set(plan.metrics):
        check_prompts(plan.prompts)


def _files(plan: Plan) -> Iterator[Path]:
    """All files whose content the numbers depend on, in an order that depends on nothing else."""
    yield from model_files(plan.source)
    yield find(EVALUATOR)
    for path in map(Path, plan.metric_files.given.values()):
        yield from (pictures_in(path) or _inside(path)) if path.is_dir() else [path]
    for file in plan.pictures.files if plan.pictures else ():
        if file is not None:
            yield Path(file)


def _inside(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_file())
