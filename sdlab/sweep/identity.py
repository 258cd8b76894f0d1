"""The identity of a plan's model and files, down to their content."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from sdlab.metrics import content_files
from sdlab.metrics.lab import evaluator_file
from sdlab.metrics.pictures import pictures_in
from sdlab.sweep import statistics
from sdlab.sweep.cell import canonical
from sdlab.sweep.needs import needs
from sdlab.sweep.plan import Plan
from sdlab.sweep.preflight import check
from sdlab.system.files import file_digest


def identify(plan: Plan) -> str:
    """The name of a plan's model, and a digest of all files that the plan reads. The plan is checked first.

    Raises:
        UsageError: the plan cannot run (`preflight.check`).
        RunError: a file is damaged or cannot be read.
    """
    check(plan)
    content, digests = hashlib.sha256(), dict[Path, bytes]()
    if plan.opened.identity:
        content.update(canonical(plan.opened.identity).encode())
    for path in _files(plan):
        digests[path] = digests.get(path) or file_digest(path)  # several prompts may have the same picture
        content.update(digests[path])
    return f"{Path(plan.opened.name).name} {content.hexdigest()[:16]}"


def _files(plan: Plan) -> Iterator[Path]:
    """All files whose content the values depend on, in a fixed order."""
    yield from plan.opened.files
    yield from (plan.opened.others[name] for name in needs(plan).networks)
    # The evaluator is included for every text-to-image model, even if no metric uses it, so that old rows stay valid.
    evaluator = evaluator_file(plan.metric_files)
    measured = [evaluator] if "prompts" not in plan.opened.ignores and evaluator.is_file() else []
    for path in map(Path, plan.metric_files.given.values()):
        measured += (pictures_in(path) or _inside(path)) if path.is_dir() else [path]
    yield from dict.fromkeys([*measured, *content_files(plan.metrics, plan.metric_files)])
    for file in plan.pictures.files if plan.pictures else ():
        if file is not None:
            yield Path(file)
    yield from statistics.files(plan)


def _inside(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_file())
