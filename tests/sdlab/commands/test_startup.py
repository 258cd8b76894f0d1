"""What a command imports before it works: heavy packages only where they are used."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import samplers
from sdlab import cli
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
for command in sys.argv[1:]:
    sys.argv = ["sdlab", *command.split()]
    try:
        cli.main()
    except SystemExit as end:
        assert not end.code, (command, end.code)
    print("modules:", *sys.modules)
"""


def imported(*commands: str, cwd: Path) -> list[set[str]]:
    """The modules that one process has imported at the end of each of these commands."""
    done = subprocess.run([sys.executable, "-c", RUN, *commands], cwd=cwd, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return [set(one.partition("\n")[0].split()) for one in done.stdout.split("modules:")[1:]]


def test_a_list_needs_no_torch(tmp_path: Path):
    *_, modules = imported("list samplers", "list grids", "list guidance", "list metrics", cwd=tmp_path)
    assert "sdlab.commands.list" in modules
    assert not {"torch", "numpy", "scipy"} & modules


def test_a_dry_run_and_a_complete_sweep_need_no_compiler_no_plots_and_no_metrics(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "mine.toml").write_text(SWEEP)
    monkeypatch.chdir(tmp_path)
    assert cli._status(["sweep", "mine.toml"]) == 0  # here, since it takes long and imports everything
    dry, complete, drawn = imported(
        "sweep --dry-run experiments/cfg_vs_steps.toml", "sweep mine.toml", "report runs/mine", cwd=tmp_path
    )
    assert {"torch", "sdlab.metrics"} <= dry
    assert "scipy.special" not in dry
    assert not UNUSED & complete
    assert "matplotlib" in drawn


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
