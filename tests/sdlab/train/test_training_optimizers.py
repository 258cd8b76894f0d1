"""Optimizers, learning-rate schedules, gradient accumulation, float16 and deterministic algorithms."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from training import QUIET, Line, Toy, keys
from two_processes import Regression

from sdlab.system.errors import RunError
from sdlab.train.loop import train
from sdlab.train.muon import Muon
from sdlab.train.optimizer import standard
from sdlab.train.randomness import batch_generator, deterministic_algorithms, measuring_generator
from sdlab.train.schedule import learning_rate
from sdlab.train.stage import Loss


def toy(folder: Path, **changes: object) -> Toy:
    return Toy(**keys(folder, **changes))


@pytest.mark.parametrize(("optimizer", "lr"), [("adamw", 0.05), ("adam", 0.05), ("muon", 0.2)])
def test_each_optimizer_fits_a_line(tmp_path: Path, optimizer: str, lr: float):
    """Muon's step on a 1 × 1 matrix is 0.2 times the learning rate."""
    config = toy(tmp_path, optimizer=optimizer, steps=300, lr=lr, ema=0.9, weight_decay=0.0)
    found = train(Line(config), config, QUIET)
    assert found["slope"] == pytest.approx(2, abs=0.02)
    assert found["offset"] == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize(
    "changes", [{"optimizer": "adam"}, {"optimizer": "muon"}, {"precision": "float16"}, {"accumulate": 3}], ids=str
)
def test_each_resumes_bit_for_bit(tmp_path: Path, changes: dict[str, object]):
    there, here = (toy(tmp_path, steps=40, out=tmp_path / name, **changes) for name in ("a", "b"))
    train(Line(there), there, QUIET)
    with pytest.raises(KeyboardInterrupt):
        train(Line(here, interrupt_at=17), here, QUIET)
    train(Line(here), here, QUIET)
    found, expected = (torch.load(config.out / "checkpoint.pt")["trained"]["line"] for config in (here, there))
    assert repr(found) == repr(expected)
    assert all(value.equal(expected["module"][key]) for key, value in found["module"].items())
    assert (here.out / "log.csv").read_text() == (there.out / "log.csv").read_text()


def network() -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Conv2d(2, 4, 3, padding=1), nn.GroupNorm(2, 4), nn.Flatten(), nn.Linear(4 * 9, 5)
    return nn.Sequential(*layers)


def gradients(module: nn.Module, step: int) -> None:
    x = torch.randn(8, 2, 3, 3, generator=batch_generator(0, step))
    module.zero_grad()
    module(x.to(memory_format=torch.channels_last)).square().sum().backward()


def test_muon_is_that_of_pytorch_on_kernels_as_matrices_and_adamw_on_the_rest():
    """The kernel is compared in the plain layout, whose columns have another order: Muon's products are in bfloat16."""
    ours, reference = network().to(memory_format=torch.channels_last), network()
    optimizer = Muon(ours, 0.01, 0.1, lambda p: torch.optim.AdamW(p, lr=0.01, betas=(0.9, 0.99), weight_decay=0.0))
    kernel = reference[0].weight.detach().flatten(1)
    matrices = torch.optim.Muon([kernel, reference[3].weight], 0.01, 0.1, adjust_lr_fn="match_rms_adamw")
    rest = [reference[0].bias, *reference[1].parameters(), reference[3].bias]
    adamw = torch.optim.AdamW(rest, lr=0.01, betas=(0.9, 0.99), weight_decay=0.0)
    start = kernel.clone()
    for step in range(5):
        for module in (ours, reference):
            gradients(module, step)
        optimizer.step()
        kernel.grad = reference[0].weight.grad.flatten(1)
        matrices.step()
        adamw.step()
    moved = (kernel - start).abs().mean()
    assert (ours[0].weight.flatten(1) - kernel).abs().max() < 0.1 * moved
    torch.testing.assert_close(ours[3].bias, reference[3].bias, rtol=0, atol=2e-3)
    assert optimizer.param_groups[0]["params"] == [ours[0].weight, ours[3].weight]


def test_muon_takes_the_rates_of_the_schedule_and_leaves_embeddings_to_adamw(tmp_path: Path):
    module = nn.Sequential(nn.Embedding(3, 2), nn.Linear(2, 2))
    optimizer = standard(module, toy(tmp_path, optimizer="muon")).optimizer(module)
    assert [len(group["params"]) for group in optimizer.param_groups] == [1, 1, 1]  # matrices, decayed, plain
    assert optimizer.param_groups[1]["params"][0] is module[0].weight
    before = {key: value.clone() for key, value in module.state_dict().items()}
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    module(torch.tensor([0, 1, 2])).square().sum().backward()
    optimizer.step()
    torch.testing.assert_close(dict(module.state_dict()), before, rtol=0, atol=0)


def test_the_keys_reach_the_optimizer(tmp_path: Path):
    module = nn.Linear(2, 2)
    for name, kind in (("adamw", torch.optim.AdamW), ("adam", torch.optim.Adam)):
        optimizer = standard(module, toy(tmp_path, optimizer=name, beta1=0.5, beta2=0.9)).optimizer(module)
        assert type(optimizer) is kind
        assert optimizer.param_groups[0]["betas"] == (0.5, 0.9)
    assert optimizer.param_groups[0]["weight_decay"] == 0


@pytest.mark.parametrize(
    ("schedule", "expected"), [("cosine", [0.5, 1.0, 0.8536, 0.5, 0.0]), ("linear", [0.5, 1.0, 0.75, 0.5, 0.0])]
)
def test_schedules_decay_to_zero(schedule: str, expected: list[float]):
    rates = [learning_rate(step, 1.0, 2, 10, schedule) for step in (0, 2, 4, 6, 10)]
    assert rates == pytest.approx(expected, abs=1e-4)


def test_the_constant_schedule_stays_at_its_peak():
    assert [learning_rate(step, 1.0, 2, 10, "constant") for step in (0, 1, 2, 9)] == [0.5, 1, 1, 1]


def test_the_schedule_key_is_used(tmp_path: Path):
    config = toy(tmp_path, steps=5, schedule="constant", warmup=0)
    train(Line(config), config, QUIET)
    saved = torch.load(config.out / "checkpoint.pt")["trained"]["line"]["optimizer"]
    assert saved["param_groups"][0]["lr"] == config.lr


def test_accumulated_gradients_are_those_of_the_large_batch(tmp_path: Path):
    """To rounding: 20 steps on 4 batches of 8, and on one batch of the same 32 examples."""
    parts, whole = (toy(tmp_path, steps=20, accumulate=k, warmup=0, clip=0.5, out=tmp_path / str(k)) for k in (4, 1))
    found, expected = Regression(parts), Regression(whole, joined=4)
    train(found, parts, QUIET)
    train(expected, whole, QUIET)
    torch.testing.assert_close(found.layer.state_dict(), expected.layer.state_dict(), rtol=0, atol=1e-6)
    logs = [(config.out / "log.csv").read_text().splitlines() for config in (parts, whole)]
    assert logs[0][0] == logs[1][0] == "step,loss,spread,lr"
    for ours, theirs in zip(logs[0][1:], logs[1][1:], strict=True):
        assert [float(v) for v in ours.split(",")] == pytest.approx([float(v) for v in theirs.split(",")], rel=1e-5)
    alone = toy(tmp_path, steps=20, warmup=0, clip=0.5, out=tmp_path / "single")
    single = Regression(alone)
    train(single, alone, QUIET)
    assert (single.layer.weight - expected.layer.weight).abs().max() > 1e-3


def test_the_batches_of_a_step_differ():
    batches = {
        float(torch.randn(1, generator=batch_generator(seed, step, i)))
        for seed in (0, 1, 2**62 - 1)  # the largest seed that the key allows
        for step in (0, 1, 10**8)
        for i in (0, 1, 65_535)
    }
    assert len(batches) == 27
    assert batch_generator(3, 7).initial_seed() == 3 * 1_000_003 + 7


def test_stages_are_measured_on_pictures_of_no_step():
    """PyTorch's generator on a CPU uses the low 32 bits of a seed."""
    steps = {batch_generator(0, step).initial_seed() for step in range(20_000)}
    assert measuring_generator(0).initial_seed() % 2**32 not in steps
    assert measuring_generator(0).initial_seed() != measuring_generator(1).initial_seed()


def test_float16_scales_the_loss_and_stores_the_scale(tmp_path: Path):
    """The gradient at float16's output overflows at the initial scale of 2¹⁶: those steps are left out."""
    config = toy(tmp_path, precision="float16", steps=300, lr=0.05, ema=0.9, weight_decay=0.0)

    class Large(Line):
        def losses(self, step: int, x: Tensor) -> Iterator[Loss]:
            for loss in super().losses(step, x):
                yield Loss(loss.name, 1000 * loss.value)

    found = train(Large(config), config, QUIET)
    assert found["slope"] == pytest.approx(2, abs=0.02)
    scaler = torch.load(config.out / "checkpoint.pt")["trained"]["line"]["scaler"]
    assert 1 < scaler["scale"] < 2**16


def test_float16_survives_one_overflow_but_not_many(tmp_path: Path):
    once, always = (toy(tmp_path, steps=40, precision="float16", out=tmp_path / name) for name in ("a", "b"))
    train(Line(once, poison_at=5), once, QUIET)

    class Poisoned(Line):
        def losses(self, step: int, x: Tensor) -> Iterator[Loss]:
            self.poison_at = step
            yield from super().losses(step, x)

    with pytest.raises(RunError, match=r"diverged at step 15: the loss of `line` is nan"):  # 2¹⁶ is halved 16 times
        train(Poisoned(always), always, QUIET)


def test_deterministic_algorithms_are_on_during_the_run_alone(tmp_path: Path):
    seen = []

    class Watched(Line):
        def losses(self, step: int, x: Tensor) -> Iterator[Loss]:
            seen.append(torch.are_deterministic_algorithms_enabled())
            yield from super().losses(step, x)

    for value in (True, False):
        config = toy(tmp_path, steps=2, deterministic=value, out=tmp_path / str(value))
        train(Watched(config), config, QUIET)
    assert seen == [True, True, False, False]
    assert not torch.are_deterministic_algorithms_enabled()


def test_deterministic_runs_are_equal(tmp_path: Path):
    saved = []
    for name in ("a", "b"):
        config = toy(tmp_path, deterministic=True, out=tmp_path / name)
        train(Line(config), config, QUIET)
        saved.append(torch.load(config.out / "checkpoint.pt")["trained"]["line"]["module"])
    assert all(value.equal(saved[1][key]) for key, value in saved[0].items())


def test_an_operation_without_a_deterministic_form_is_named():
    with (
        pytest.raises(RunError, match=r"`deterministic`: adaptive_x has no deterministic form on this device"),
        deterministic_algorithms(True),
    ):
        raise RuntimeError("adaptive_x does not have a deterministic implementation, but you set …")
    with pytest.raises(RuntimeError, match="shape"), deterministic_algorithms(True):
        raise RuntimeError("shape mismatch")
