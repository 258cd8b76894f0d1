"""The round-trip error of a sweep: its value by hand, what it leaves alone, and what cannot be inverted."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

import samplers
from sdlab.commands.sweep import sweep
from sdlab.sweep.bench import ModelBench
from sdlab.sweep.identity import identify
from sdlab.sweep.passes import passes_per_image, round_trip_passes
from sdlab.sweep.plan import load_plan
from sdlab.sweep.preflight import check
from sdlab.sweep.store import Row, Store
from sdlab.system.errors import UsageError

MODEL = """
import samplers, torch
from sdlab.backends.custom_model import CustomModel

def mine():
    return CustomModel(lambda x, sigma: x / (1 + 4 * sigma**2), samplers.continuous_levels(0.05, 10.0), (3,))

def guided():
    contexts = torch.zeros(1, 1), torch.zeros(1, 1)
    levels = samplers.continuous_levels(0.05, 10.0)
    return CustomModel(lambda x, sigma, context: x / (1 + sigma**2), levels, (3,), contexts)
"""
TOML = """
model = "mine.py:{model}"
images = 5
batch = 2
device = "cpu"
metrics = {metrics}
[cells]
sampler = {sampler}
grid = {grid}
guidance = {guidance}
steps = {steps}
"""
SAMPLERS = '["bdia", "belm", "edict", "ddim", { name = "ddim", refinements = 3 }]'
BOTH = '["round_trip_error", "noise_round_trip_error"]'
STOPS = '{ name = "karras", ending = "stop_at_sigma_min" }'
SIGMAS = samplers.grid("karras", steps=8, levels=samplers.continuous_levels(0.05, 10.0), ending="stop_at_sigma_min")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sdlab.report.plots.plot_metric", lambda path, *_: path.touch())
    Path("mine.py").write_text(MODEL, encoding="utf-8")


def written(
    metrics: str = BOTH,
    sampler: str = SAMPLERS,
    grid: str = STOPS,
    guidance: str = '"none"',
    steps: int = 8,
    model: str = "mine",
) -> Path:
    file = Path("s.toml")
    file.write_text(
        TOML.format(metrics=metrics, sampler=sampler, grid=grid, guidance=guidance, steps=steps, model=model),
        encoding="utf-8",
    )
    return file


def rows(**changes: str | int) -> Mapping[str, Row]:
    """The rows by the label of the sampler."""
    console = Console(file=io.StringIO())
    sweep(written(**changes), identify, ModelBench, out=Path("runs"), console=console)  # type: ignore[arg-type]
    with Store(Path("runs/s/results.sqlite")) as store:
        return {row.cell.sampler.label: row for row in store.rows()}


def test_it_is_the_round_trip_error_of_the_samples_of_the_cell():
    def denoise(x, sigma):
        return x / (1 + 4 * sigma**2)

    noise = samplers.seeded(range(5))(torch.empty(5, 3)) * 10.0
    for label, row in rows().items():
        name, _, refinements = label.partition(" refinements=")
        rule = samplers.make(name, **({"refinements": int(refinements)} if refinements else {}))
        x = samplers.run(rule, denoise, noise, SIGMAS)
        expected = samplers.round_trip_error(rule, denoise, x, SIGMAS)
        np.testing.assert_allclose(row.per_image["round_trip_error"], expected, rtol=1e-3, atol=1e-6)
        start, _ = samplers.invert(rule, denoise, x, SIGMAS)
        alone = (samplers.run(rule, denoise, start, SIGMAS) - x).square().mean(1).sqrt()
        np.testing.assert_allclose(row.per_image["noise_round_trip_error"], alone, rtol=1e-3, atol=1e-6)


def test_exact_inverses_are_exact_with_their_second_state_alone():
    found = {
        label: (row.metrics["round_trip_error"], row.metrics["noise_round_trip_error"]) for label, row in rows().items()
    }
    for name in ("bdia", "belm", "edict"):
        assert found[name][0] < 1e-5 < 1e-4 < found[name][1]
    assert found["ddim"][0] == found["ddim"][1] > 10 * found["ddim refinements=3"][0] > 0


def test_its_passes_are_not_those_of_the_cell():
    with_it, without = rows(), rows(metrics='["reference_error"]')
    assert {label: row.network_passes for label, row in with_it.items()} == {
        label: row.network_passes for label, row in without.items()
    }


def test_its_passes_are_estimated():
    """Two trips up and down. Downwards with a second state known, the first step is free; upwards, DDIM refines."""
    plan = load_plan(written())
    found = {cell.sampler.label: round_trip_passes(plan, cell) for cell in plan.cells}
    assert found == {"bdia": 31, "belm": 31, "edict": 64, "ddim": 32, "ddim refinements=3": 80}
    assert [passes_per_image(plan, cell) for cell in plan.cells] == [8, 8, 16, 8, 8]
    other = load_plan(written(metrics='["reference_error"]'))
    assert {round_trip_passes(other, cell) for cell in other.cells} == {0.0}


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (
            {"sampler": '["heun", "belm", { name = "ddim", eta = 0.5 }]'},
            "heun, ddim eta=0.5 cannot be inverted; use bdia, belm, edict, or ddim with eta 0 and without clip",
        ),
        (
            {"grid": f'[{STOPS}, "karras"]'},
            'karras ends at 0, where no noise is left to invert; add ending = "stop_at_sigma_min"',
        ),
        (
            {"guidance": '{ name = "apg", momentum = -0.5 }', "model": "guided"},
            "apg momentum=-0.5 cannot be inverted, because its predictions depend on the steps before",
        ),
    ],
)
def test_what_cannot_be_inverted_is_one_line(changes: dict[str, str], line: str):
    with pytest.raises(UsageError) as caught:
        check(load_plan(written(metrics='["round_trip_error"]', **changes)))
    assert f"metrics: round_trip_error: {line}" in str(caught.value).splitlines()


def test_an_inversion_that_overflows_fails_its_cell():
    row = rows(sampler='[{ name = "bdia", gamma = 0.01 }]', steps=64)["bdia gamma=0.01"]
    assert row.reason == "the inversion overflows; use fewer steps, or a sampler that is stable both ways"
