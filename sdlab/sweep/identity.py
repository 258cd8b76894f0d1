"""The identity of what a plan is made from: its model and its files, down to their content."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from sdlab.metrics import content_files
from sdlab.metrics.lab import evaluator_file
from sdlab.metrics.pictures import pictures_in
from sdlab.sweep.cell import canonical
from sdlab.sweep.plan import Plan
from sdlab.sweep.preflight import check
from sdlab.system.errors import RunError
from sdlab.system.files import reason


def identify(plan: Plan) -> str:
    """The model of a plan, and the content of all other files it reads: a name and a digest. The plan is checked first.

    Raises:
        UsageError: the plan cannot run (`preflight.check`).
        RunError: a file is damaged or cannot be read.
    """
    check(plan)
    content, digests = hashlib.sha256(), dict[Path, bytes]()
    if plan.opened.identity:
        content.update(canonical(plan.opened.identity).encode())
    for path in _files(plan):
        digests[path] = digests.get(path) or _digest(path)  # one picture may serve every prompt
        content.update(digests[path])
    return f"{Path(plan.opened.name).name} {content.hexdigest()[:16]}"


def _digest(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except OSError as error:
        raise RunError(f"cannot read {path}: {reason(error)}") from None


def _files(plan: Plan) -> Iterator[Path]:
    """All files whose content the values depend on, in an order that depends on nothing else."""
    yield from plan.opened.files
    # The evaluator counts for every text-to-image model, measured with it or not: rows of earlier runs stay valid.
    evaluator = evaluator_file(plan.metric_files)
    measured = [evaluator] if "prompts" not in plan.opened.ignores and evaluator.is_file() else []
    for path in map(Path, plan.metric_files.given.values()):
        measured += (pictures_in(path) or _inside(path)) if path.is_dir() else [path]
    yield from dict.fromkeys([*measured, *content_files(plan.metrics, plan.metric_files)])
    for file in plan.pictures.files if plan.pictures else ():
        if file is not None:
            yield Path(file)


def _inside(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_file())
