"""The provenance of a row: versions, machine, precision and commit."""

from __future__ import annotations

import platform
import subprocess
from pathlib import Path

import torch

import sdlab
from sdlab.sweep.plan import Plan
from sdlab.system.resources import ROOT


def provenance(plan: Plan, model: str) -> dict[str, str | int | None]:
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
