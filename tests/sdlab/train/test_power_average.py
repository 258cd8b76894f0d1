"""Power-function averages: their weights are those of the definition, and stored ones give any length."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from training import QUIET, Line, Toy, keys

from sdlab.system.errors import RunError, UsageError
from sdlab.train.average import Average
from sdlab.train.loop import train
from sdlab.train.power_average import LENGTHS, PowerAverage, combination

STEPS = 1024


def profile(length: float, steps: int) -> np.ndarray:
    """The weight of each of STEPS steps: the integral of (γ + 1) τ^γ / t^(γ + 1) over it, (STEPS,)."""
    power = PowerAverage(length).exponent + 1
    edges = np.minimum(np.arange(STEPS + 1), steps) / steps
    return np.diff(edges**power)


@pytest.mark.parametrize(("length", "exponent"), [(0.05, 16.97), (0.10, 6.94)])
def test_the_exponents_are_those_of_the_paper(length: float, exponent: float):
    """Karras et al. 2024, arXiv:2312.02696, section 3.1."""
    assert PowerAverage(length).exponent == pytest.approx(exponent, abs=0.005)


@pytest.mark.parametrize("length", [0.02, 0.05, 0.1, 0.25])
def test_the_length_is_the_standard_deviation_of_the_profile(length: float):
    t = (np.arange(STEPS) + 0.5) / STEPS
    p = profile(length, STEPS)
    assert np.sqrt(p @ t**2 - (p @ t) ** 2) == pytest.approx(length, rel=2e-3)


@pytest.mark.parametrize("length", [0.02, 0.1, 0.25])
def test_the_decay_gives_the_weights_of_the_profile(length: float):
    """Each step's weights are a unit vector, so the average is the profile itself."""
    module = nn.Linear(STEPS, 1, bias=False).double()
    average = Average(module, PowerAverage(length))
    for step in range(STEPS):
        module.weight.data.zero_()[0, step] = 1
        average.update(module, step)
    np.testing.assert_allclose(average.state["weight"][0].numpy(), profile(length, STEPS), atol=1e-12)


def test_a_stored_average_is_itself():
    stored = [(steps, length) for steps in (256, 512, 768, 1024) for length in LENGTHS]
    factors, error = combination(stored, (768, 0.1))
    assert error < 1e-6
    np.testing.assert_allclose(factors[:6], [0, 0, 0, 0, 0, 1], atol=1e-8)


@pytest.mark.parametrize(("length", "error"), [(0.03, 0.02), (0.075, 1e-3), (0.15, 3e-3), (0.2, 1e-2)])
def test_32_snapshots_give_any_profile(length: float, error: float):
    """In the sum of |differences| of the weights: it bounds the error of the average of weights in [−1, 1]."""
    stored = [(STEPS // 32 * (i + 1), one) for i in range(32) for one in LENGTHS]
    factors, _ = combination(stored, (STEPS, length))
    found = sum(factor * profile(one, steps) for factor, (steps, one) in zip(factors, stored, strict=True))
    assert np.abs(found - profile(length, STEPS)).sum() < error


@pytest.mark.parametrize(("n", "length"), [(2, 0.2), (8, 0.02), (32, 0.01), (32, 0.25)])
def test_the_error_is_the_distance_of_the_profiles(n: int, length: float):
    """In the L² norm, computed here step by step."""
    stored = [(STEPS // n * (i + 1), one) for i in range(n) for one in LENGTHS]
    factors, error = combination(stored, (STEPS, length))
    found = sum(factor * profile(one, steps) for factor, (steps, one) in zip(factors, stored, strict=True))
    wanted = profile(length, STEPS)
    assert error == pytest.approx(np.linalg.norm(found - wanted) / np.linalg.norm(wanted), rel=0.05)


class Tracked(Line):
    """Fits a line, and also tracks an average of one length directly."""

    def __init__(self, config: Toy, length: float) -> None:
        super().__init__(config)
        self.trained["line"].averages["direct"] = PowerAverage(length).__call__  # not in the snapshots


def toy(folder: Path, **changes: object) -> Toy:
    return Toy(**keys(folder, **{"steps": 640, "lr": 0.1, "snapshot_every": 20, **changes}))


@pytest.mark.parametrize("length", [0.03, 0.15])
def test_the_saved_average_is_that_tracked_directly(tmp_path: Path, length: float):
    """The weights still move at the end, so averages of other lengths differ by several times the tolerance."""
    config = toy(tmp_path, ema_length=length, ema=0.0, lr=0.005)
    stage = Tracked(config, length)
    found = train(stage, config, QUIET)
    saved = torch.load(config.out / "checkpoint.pt")["trained"]["line"]["averages"]
    assert found["slope"] == pytest.approx(saved["direct"]["weight"].item(), abs=1e-4)
    others = [abs(found["slope"] - saved[name]["weight"].item()) for name in ("ema", "power_0.05", "power_0.1")]
    assert min(others) > 4e-4


def test_the_length_is_chosen_after_training(tmp_path: Path):
    """The repeated command trains no further, and another length gives what it would have given at once."""
    first, second = toy(tmp_path, ema_length=0.03), toy(tmp_path, ema_length=0.2)
    early = train(Line(first), first, QUIET)
    stage = Line(second)
    late = train(stage, second, QUIET)
    assert stage.seen == []
    whole = toy(tmp_path / "whole", ema_length=0.2)
    expected = train(Line(whole), whole, QUIET)
    assert late["slope"] == expected["slope"] != early["slope"]


def test_a_length_that_the_snapshots_cannot_give_is_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    near, far = (toy(tmp_path, steps=60, ema_length=length) for length in (0.08, 0.01))
    train(Line(near), near, QUIET)
    assert capsys.readouterr().err == ""
    train(Line(far), far, QUIET)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(
        f"warning: the snapshots in {far.out}/averages give an average of `ema_length` = 0.01 that is 60% "
    )


def test_an_interrupted_run_has_the_same_snapshots(tmp_path: Path):
    whole, parts = toy(tmp_path / "a", steps=50), toy(tmp_path / "b", steps=50)
    train(Line(whole), whole, QUIET)
    with pytest.raises(KeyboardInterrupt):
        train(Line(parts, interrupt_at=29), parts, QUIET)
    train(Line(parts), parts, QUIET)
    found, expected = ({p.name: p.read_bytes() for p in (c.out / "averages").iterdir()} for c in (parts, whole))
    assert found == expected
    assert sorted(found) == ["line.20.safetensors", "line.40.safetensors", "line.50.safetensors"]


def test_a_new_run_drops_the_snapshots_of_an_old_one(tmp_path: Path):
    old, new = toy(tmp_path, steps=60), toy(tmp_path, steps=30)
    train(Line(old), old, QUIET)
    (old.out / "checkpoint.pt").unlink()
    train(Line(new), new, QUIET)
    assert sorted(p.name for p in (new.out / "averages").iterdir()) == ["line.20.safetensors", "line.30.safetensors"]


def test_lost_and_damaged_snapshots_are_named(tmp_path: Path):
    config = toy(tmp_path, steps=30, ema_length=0.1)
    train(Line(config), config, QUIET)
    last = config.out / "averages" / "line.30.safetensors"
    last.write_bytes(last.read_bytes()[:-9])
    with pytest.raises(RunError, match=r"averages/line\.30\.safetensors: cannot be read \(SafetensorError\)"):
        train(Line(config), config, QUIET)
    last.unlink()
    with pytest.raises(UsageError, match=r"averages has no snapshot of step 30; remove `ema_length` or train again"):
        train(Line(config), config, QUIET)
