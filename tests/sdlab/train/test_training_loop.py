"""The training loop: it learns, resumes exactly, and stops with a clear message."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn
from training import QUIET, Line, Toy, keys

from sdlab.system.errors import RunError, UsageError
from sdlab.train.average import Average, exponential
from sdlab.train.log import LossLog
from sdlab.train.loop import train
from sdlab.train.optimizer import standard
from sdlab.train.schedule import learning_rate
from sdlab.train.stage import Loss
from sdlab.weights.model_folder import save_part


def fit(config: Toy, **changes: int) -> dict[str, float]:
    return train(Line(config, **changes), config, QUIET)


def toy(folder: Path, **changes: object) -> Toy:
    return Toy(**keys(folder, **changes))


def test_the_loop_fits_a_line(tmp_path: Path):
    found = fit(toy(tmp_path, steps=300, lr=0.05, ema=0.9, weight_decay=0.0))
    assert found["slope"] == pytest.approx(2, abs=0.02)
    assert found["offset"] == pytest.approx(1, abs=0.02)


def test_an_interrupted_run_resumes_to_the_same_weights(tmp_path: Path):
    there, here = (toy(tmp_path, steps=40, out=tmp_path / name) for name in ("a", "b"))
    whole, half, rest = Line(there), Line(here, interrupt_at=17), Line(here)
    expected = train(whole, there, QUIET)
    with pytest.raises(KeyboardInterrupt):
        train(half, here, QUIET)
    found = train(rest, here, QUIET)
    assert len(half.seen) == 18  # the step in which the signal came is finished first
    assert half.seen + rest.seen == whole.seen
    assert {k: found[k] for k in ("slope", "offset")} == {k: expected[k] for k in ("slope", "offset")}
    logs = [(tmp_path / name / "log.csv").read_text().splitlines() for name in ("a", "b")]
    assert logs[0] == logs[1]
    assert len(logs[0]) == 6  # the header, steps 0, 10, 20, 30, and the last


class Still(Line):
    """A stage of two layers whose loss has no gradient."""

    def __init__(self, config: Toy, layers: nn.Module, stored: nn.Module | None = None) -> None:
        super().__init__(config)
        self.line = layers
        self.trained = {"layers": standard(layers, config, stored)}

    def losses(self, step: int, x: Tensor) -> Iterator[Loss]:
        yield Loss("layers", 0 * self.line(torch.zeros(1, 2)).sum())

    def finish(self) -> dict[str, float]:
        return {}


def test_a_run_starts_from_what_fits_in_older_weights(tmp_path: Path):
    old, new = (nn.Sequential(nn.Linear(2, 3), nn.Linear(3, width)) for width in (2, 1))
    save_part(tmp_path / "old.safetensors", old, torch.float32)
    fresh = new[1].weight.detach().clone()
    config = toy(tmp_path, start=tmp_path / "old.safetensors", weight_decay=0.0)
    console = Console(file=io.StringIO(), width=500)
    train(Still(config, new), config, console)
    said = f"2 of 4 tensors from {config.start}; the others, which it lacks or has in another shape, start at random\n"
    assert console.file.getvalue().startswith(said)
    torch.testing.assert_close(new[0].state_dict(), old[0].state_dict())
    torch.testing.assert_close(new[1].weight.detach(), fresh)


def test_older_weights_fill_the_stored_part_but_not_what_is_frozen(tmp_path: Path):
    old, new = (nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)) for _ in range(2))
    save_part(tmp_path / "old.safetensors", old, torch.float32)
    new[0].requires_grad_(False)
    locked = {key: value.clone() for key, value in new[0].state_dict().items()}
    config = toy(tmp_path, start=tmp_path / "old.safetensors", weight_decay=0.0)
    train(Still(config, nn.Sequential(new, nn.Linear(2, 1)), stored=new), config, QUIET)
    torch.testing.assert_close(new[0].state_dict(), locked)
    torch.testing.assert_close(new[1].state_dict(), old[1].state_dict())


def test_weights_to_start_from_that_are_missing_or_of_another_network_are_named(tmp_path: Path):
    with pytest.raises(UsageError, match=r"`start`: .*none\.safetensors: no such file"):
        fit(toy(tmp_path, start=tmp_path / "none.safetensors"))
    save_part(tmp_path / "other.safetensors", nn.Linear(7, 5), torch.float32)
    with pytest.raises(UsageError, match=r"other\.safetensors has no tensor whose name and shape match"):
        fit(toy(tmp_path, start=tmp_path / "other.safetensors"))


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path):
    fit(toy(tmp_path))
    with pytest.raises(UsageError, match=r"`lr` was 0\.01 and is now 0\.5"):
        fit(toy(tmp_path, lr=0.5))


def test_a_key_newer_than_the_checkpoint_had_its_default(tmp_path: Path):
    class Newer(Toy):
        extra: float = 1.0

    fit(toy(tmp_path, steps=3))
    assert fit(Newer(**keys(tmp_path, steps=6)))
    fit(Newer(**keys(tmp_path / "other", extra=2.0)))
    with pytest.raises(UsageError, match=r"`extra` was 2\.0 and is now 1\.0"):
        fit(Newer(**keys(tmp_path / "other")))


def test_a_checkpoint_of_another_stage_is_refused(tmp_path: Path):
    class Other(Toy):
        stage = "other"

    fit(toy(tmp_path))
    with pytest.raises(UsageError, match=r"checkpoint\.pt belongs to a run of the toy stage"):
        fit(Other(**keys(tmp_path)))


@pytest.mark.parametrize("old", [{"module": {}}, {"trained": {}}, {"trained": {"line": {"module": {"w": 0}}}}])
def test_a_checkpoint_of_other_networks_is_refused(old: dict[str, object], tmp_path: Path):
    config = toy(tmp_path)
    fit(config)
    path = tmp_path / "out" / "checkpoint.pt"
    torch.save({"stage": "toy", "config": config.model_dump_json(), "step": 6, "seconds": 1.0, **old}, path)
    with pytest.raises(RunError, match=r"checkpoint\.pt (was written by an earlier|does not fit).*delete it"):
        fit(config)


def test_a_damaged_checkpoint_is_named(tmp_path: Path):
    fit(toy(tmp_path))
    path = tmp_path / "out" / "checkpoint.pt"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(RunError, match=r"checkpoint\.pt: cannot be read"):
        fit(toy(tmp_path))


WRONG = {
    "stage": [None, 3],
    "config": [None, 3, "x", "[]", "{"],
    "step": [None, 3.5, "x", -1],
    "seconds": [None, "x", -1.0, float("nan")],
    "trained": [None, 3, "x", []],
}


@pytest.mark.parametrize("key", WRONG)
def test_a_checkpoint_that_lacks_a_part_is_one_line(tmp_path: Path, key: str):
    config = toy(tmp_path)
    fit(config)
    path = config.out / "checkpoint.pt"
    saved = torch.load(path)
    without = {name: value for name, value in saved.items() if name != key}
    for content in [without, *(without | {key: value} for value in WRONG[key])]:
        torch.save(content, path)
        with pytest.raises(
            RunError, match=r"checkpoint\.pt(: is not a complete| was written by).*; delete it"
        ) as error:
            fit(config)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("part", ["module", "averages", "optimizer"])
@pytest.mark.parametrize("value", [None, 3, [], {}, {"ema": {}}])
def test_a_checkpoint_whose_weights_are_not_there_is_one_line(tmp_path: Path, part: str, value: object):
    config = toy(tmp_path)
    fit(config)
    path = config.out / "checkpoint.pt"
    saved = torch.load(path)
    saved["trained"]["line"][part] = value
    torch.save(saved, path)
    with pytest.raises(RunError, match=r"checkpoint\.pt does not fit the stage's networks \(.*\); delete it") as error:
        fit(config)
    assert "\n" not in str(error.value)


def test_a_checkpoint_that_is_no_table_is_one_line(tmp_path: Path):
    config = toy(tmp_path)
    config.out.mkdir()
    for content in ([1], torch.zeros(3), "x", {"trained": {}}):
        torch.save(content, config.out / "checkpoint.pt")
        with pytest.raises(RunError, match=r"checkpoint\.pt: is not a complete checkpoint of sdlab; delete it"):
            fit(config)


def test_a_diverging_run_stops_with_its_step(tmp_path: Path):
    with pytest.raises(RunError, match=r"diverged at step 3: the loss of `line` is nan"):
        fit(toy(tmp_path), poison_at=3)


def test_the_learning_rate_warms_up_and_decays_to_zero():
    rates = [learning_rate(step, peak=1.0, warmup=100, steps=1000) for step in range(1001)]
    assert rates[0] == pytest.approx(0.01)
    assert max(rates) == rates[99] == 1.0
    assert rates[550] == pytest.approx(0.5, abs=0.01)
    assert rates[1000] == pytest.approx(0.0)


def test_the_average_of_constant_weights_is_those_weights():
    module = nn.Linear(3, 2)
    average = Average(module, exponential(0.99))
    for step in range(10):
        average.update(module, step)
    torch.testing.assert_close(average.state["weight"], module.weight.detach())


def test_the_average_is_that_of_its_definition():
    module = nn.Linear(1, 1, bias=False)
    module.weight.data.fill_(1.0)
    average = Average(module, exponential(0.5))
    expected = 1.0
    for step in range(12):
        module.weight.data.fill_(float(step))
        average.update(module, step)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * step
    assert float(average.state["weight"]) == pytest.approx(expected)


def test_a_loss_that_starts_late_gets_its_column(tmp_path: Path):
    log = LossLog(tmp_path / "log.csv", 0)
    log.row(0, {"a": 1.0})
    log.row(10, {"a": 2.0, "b": 0.5})
    log.row(20, {"b": 0.25})
    assert (tmp_path / "log.csv").read_text() == "step,a,b\n0,1,\n10,2,0.5\n20,,0.25\n"
    LossLog(tmp_path / "log.csv", 15).row(20, {"a": 3.0})
    assert (tmp_path / "log.csv").read_text() == "step,a,b\n0,1,\n10,2,0.5\n20,3,\n"
