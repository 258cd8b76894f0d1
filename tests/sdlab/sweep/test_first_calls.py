"""The first network call of a run is made once for all cells that begin with it, and charged to each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sdlab.sweep import first_calls
from sdlab.sweep.bench import ModelBench
from sdlab.sweep.first_calls import FirstCalls
from sdlab.sweep.pass_clock import PassClock
from sdlab.sweep.plan import load_plan

TOML = """
model = "scenes"
images = 3
batch = 2
device = "cpu"
metrics = ["saturation"]
[prompts]
set = "scenes"
count = 3
[cells]
sampler = ["euler", "dpmpp_2m"]
guidance = [{ name = "none" }, { name = "cfg", scale = 3.0 }]
steps = 2
"""


class Network:
    """D(x) = 2x + c, which counts its calls."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, x: Tensor, sigma: Any, context: Tensor, **options: Any) -> Tensor:
        self.calls += 1
        return 2 * x + context


def test_a_second_run_takes_the_first_call_from_the_first_and_pays_for_it():
    network, first, x, c = Network(), FirstCalls(), torch.randn(3, 2), torch.randn(3, 1)
    one, two = (PassClock(first) for _ in range(2))
    found = [clock.watch(network)(x.clone(), 4.0, c) for clock in (one, two)]
    assert network.calls == 1
    assert torch.equal(*found)
    assert (two.passes, two.seconds) == (one.passes, one.seconds) == (3, two.saved)
    assert one.saved == 0
    found[1].zero_()  # samplers may write into what they get
    assert torch.equal(PassClock(first).watch(network)(x, 4.0, c), found[0])


@pytest.mark.parametrize("change", ["the last number of x", "the context", "the level", "an option", "a gradient"])
def test_another_call_is_made(change: str):
    network, first, x, c = Network(), FirstCalls(), torch.zeros(3, 9), torch.zeros(3, 9)
    PassClock(first).watch(network)(x, 4.0, c)
    other, context = x.clone(), c.clone()
    if change == "the last number of x":
        other[-1, -1] = 1
    if change == "the context":
        context[-1, -1] = 1
    model = PassClock(first).watch(network)
    options = {"perturbation": ("one",)} if change == "an option" else {}
    model(other.requires_grad_(change == "a gradient"), 4.1 if change == "the level" else 4.0, context, **options)
    assert network.calls == 2


def test_later_calls_of_a_run_are_made():
    network, first, x = Network(), FirstCalls(), torch.zeros(3, 9)
    for _ in range(2):
        model = PassClock(first).watch(network)
        for _ in range(3):
            model(x, 4.0, x)
    assert network.calls == 3 + 2


def test_calls_that_were_not_used_for_longest_are_forgotten(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(first_calls, "_MOST", 3 * 4 * 3 * 2)  # bytes: two calls of three tensors with three numbers
    first, one = FirstCalls(), torch.ones(3)
    for value in (1.0, 2.0):
        first.keep(value * one, 4.0, one, one, 0.0)
    assert first.find(one, 4.0, one) is not None
    first.keep(3 * one, 4.0, one, one, 0.0)
    assert first.find(2 * one, 4.0, one) is None
    assert first.find(one, 4.0, one) is not None


def test_the_cells_of_a_sweep_have_the_same_values_to_the_bit(tmp_path: Path):
    path = tmp_path / "mine.toml"
    path.write_text(TOML, encoding="utf-8")
    plan = load_plan(path)
    bench = ModelBench(plan)
    shared = bench._first
    assert shared is not None
    for cell in plan.cells:
        bench._first = shared
        found = bench.run(cell, lambda share: None, range(3))
        bench._first = None
        alone = bench.run(cell, lambda share: None, range(3))
        assert found.metrics == alone.metrics
        assert (found.thumbnails == alone.thumbnails).all()
        assert found.network_passes == alone.network_passes == (4 if cell.guidance.name == "cfg" else 2)
    assert len(shared._known) == 4  # of two batches, with and without guidance


def test_timing_makes_every_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "mine.toml"
    path.write_text(TOML, encoding="utf-8")
    plan = load_plan(path)
    bench, clocks = ModelBench(plan), list[PassClock]()
    monkeypatch.setattr(PassClock, "watch", lambda clock, model: (clocks.append(clock), model)[1])
    bench.time(plan.cells[0], lambda share: None)
    bench.run(plan.cells[0], lambda share: None, range(2))
    assert [clock._first is None for clock in clocks] == [True, False]
