"""The provenance of a row: versions, machine, precision and commit."""

from __future__ import annotations

import hashlib
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch

import sdlab
from sdlab.metrics import content_files, missing_files
from sdlab.sweep.plan import Plan
from sdlab.system.files import file_digest
from sdlab.system.resources import ROOT

OTHER_WORK = "other_work"  # the key of the share of the processor that other programs used while a cell ran
AT_ONCE = "at_once"  # the key that marks cells of workers, which run at the same time


def provenance(plan: Plan, model: str) -> dict[str, Any]:
    """The provenance of a row of the store; `model` identifies the model down to its weights."""
    return {
        "sdlab": sdlab.__version__,
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "git_commit": git_commit(),
        "model": plan.model,
        "weights": model,
        "device": plan.device,
        "device_name": device_name(plan.device),
        "dtype": plan.dtype,
        "compile": plan.compile,
        "threads": torch.get_num_threads(),
        "batch": plan.batch,
        "first_seed": plan.seed,
        "last_seed": plan.seed + plan.images - 1,
        "metric_files": metric_digests(plan),
    }


def device_name(device: str) -> str:
    """The product name of the graphics card or the processor."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def git_commit() -> str | None:
    """The commit of the code, followed by `+` if files have changed since; None outside a clone."""
    if not (ROOT / ".git").exists():
        return None
    try:
        commit = _git("rev-parse", "HEAD")
        return commit + ("+" if _git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(*arguments: str) -> str:
    return subprocess.run(
        ["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=True, timeout=10
    ).stdout.strip()


def metric_digests(plan: Plan) -> dict[str, str]:
    """A digest of the files behind each metric that has any, such as the evaluator's weights and the real pictures."""
    found = {}
    for name in plan.metrics:
        if missing_files([name], plan.metric_files):
            continue
        content, files = hashlib.sha256(), content_files([name], plan.metric_files)
        for path in files:
            content.update(file_digest(path))
        if files:
            found[name] = content.hexdigest()[:16]
    return found
