"""What a command imports before it works: heavy packages only where they are used."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import samplers
from sdlab.commands import source
from sdlab.guidance import GUIDANCE
from sdlab.metrics import METRICS
from sdlab.model.clip import Clip
from sdlab.model.config import SCENES
from sdlab.model.unfilled import unfilled

SWEEP = """
model = "gaussian"
images = 4
metrics = ["w2"]
[cells]
sampler = ["euler", "heun"]
grid = "karras"
steps = [2, 3]
"""
# The compiler of PyTorch, plots, metrics, and what these bring along.
UNUSED = {
    "torch._dynamo", "torch._inductor", "sympy", "matplotlib", "torchmetrics", "transformers", "torchvision", "pandas",
    "scipy.integrate", "scipy.signal", "scipy.stats", "scipy.optimize", "tensorflow", "diffusers",
}  # fmt: skip
RUN = """
import sys
from sdlab import cli
sys.argv = ["sdlab", *sys.argv[1:]]
try:
    cli.main()
except SystemExit as end:
    assert not end.code, end.code
print("modules:", *sys.modules)
"""


def imported(*arguments: str, cwd: Path) -> set[str]:
    """The modules that a command has imported when it ends."""
    done = subprocess.run([sys.executable, "-c", RUN, *arguments], cwd=cwd, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.rpartition("modules:")[2].split())


@pytest.mark.parametrize("what", ["samplers", "grids", "guidance", "metrics"])
def test_a_list_needs_no_torch(what: str, tmp_path: Path):
    assert not {"torch", "numpy", "scipy"} & imported("list", what, cwd=tmp_path)


def test_a_dry_run_needs_no_compiler_no_plots_and_no_metrics(tmp_path: Path):
    modules = imported("sweep", "--dry-run", "experiments/cfg_vs_steps.toml", cwd=tmp_path)
    assert "torch" in modules
    assert not UNUSED & modules
    assert "scipy.special" not in modules


def test_repeating_a_complete_sweep_imports_nothing_unused(tmp_path: Path):
    (tmp_path / "mine.toml").write_text(SWEEP)
    assert "matplotlib" in imported("sweep", "mine.toml", cwd=tmp_path)  # the first run draws
    assert not UNUSED & imported("sweep", "mine.toml", cwd=tmp_path)


@pytest.mark.parametrize(
    ("place", "registry"),
    [
        (("samplers", "SAMPLERS"), samplers.SAMPLERS),
        (("samplers.grids.registry", "GRIDS"), samplers.GRIDS),
        (("sdlab.guidance", "GUIDANCE"), GUIDANCE),
    ],
)
def test_a_registry_read_from_the_source_is_the_registry(place: tuple[str, str], registry: dict[str, object]):
    read = {name: entry.first_line for name, entry in source.entries(*place).items()}
    assert read == {name: samplers.describe(entry) for name, entry in registry.items()}  # type: ignore[arg-type]


def test_metrics_read_from_the_source_are_the_metrics():
    read = source.entries("sdlab.metrics", "METRICS")
    assert list(read) == list(METRICS)
    for name, metric in METRICS.items():
        assert [read[name].constant(key) for key in ("label", "better", "about")] == [
            metric.label, metric.better, metric.about,
        ]  # fmt: skip


def test_networks_without_weights_have_the_shapes_of_those_with():
    assert SCENES.vision is not None
    with unfilled():
        bare = Clip(SCENES.text, SCENES.vision)
    full = Clip(SCENES.text, SCENES.vision)
    assert {name: p.shape for name, p in bare.named_parameters()} == {n: p.shape for n, p in full.named_parameters()}
    assert all(p.device == torch.device("meta") for p in bare.parameters())
