"""Two modules in turn: each loss steps its own module, and both resume bit for bit."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from training import QUIET, Toy, keys

from sdlab.train.average import exponential
from sdlab.train.loop import train
from sdlab.train.optimizer import adamw, standard
from sdlab.train.stage import Loss, Trained


class Scalar(nn.Module):
    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.tensor(value, dtype=torch.float64))


class Quadratics:
    """x minimises ½ (x − y)² + ¼ x², then y minimises ½ (y + x)²: the second sees the x that was just updated."""

    def __init__(self) -> None:
        self.x, self.y = Scalar(1.0), Scalar(-2.0)
        self.trained = {
            "x": Trained(self.x, lambda module: torch.optim.SGD(module.parameters(), lr=0.5)),
            "y": Trained(self.y, lambda module: torch.optim.SGD(module.parameters(), lr=0.25)),
        }

    @staticmethod
    def draw(generator: torch.Generator) -> None:
        return None

    def losses(self, step: int, batch: None) -> Iterator[Loss]:
        x, y = self.x.value, self.y.value
        yield Loss("x", (x - y).square() / 2 + x.square() / 4)
        yield Loss("y", (y + x).square() / 2)

    def finish(self) -> dict[str, float]:
        return {"x": float(self.x.value), "y": float(self.y.value)}


def test_alternating_descent_is_that_computed_by_hand(tmp_path: Path):
    """All rates are dyadic, so that float64 is exact: during the warm-up they are peak · (step + 1) / 4."""
    found = train(Quadratics(), Toy(**keys(tmp_path, steps=4, warmup=4, clip=1e6)), QUIET)
    x, y = Fraction(1), Fraction(-2)
    for step in range(4):
        rate = Fraction(step + 1, 4)
        x -= rate / 2 * ((x - y) + x / 2)
        y -= rate / 4 * (y + x)
    assert found["x"] == x
    assert found["y"] == y


class Adversarial:
    """A GAN on numbers: the generator shifts noise, the discriminator tells it from N(3, 1)."""

    def __init__(self, config: Toy, *, signal_at: int | None = None, fail_at: int | None = None) -> None:
        torch.manual_seed(0)
        self.generator, self.discriminator = (
            nn.Sequential(nn.Linear(1, 8), nn.SiLU(), nn.Linear(8, 1)) for _ in range(2)
        )
        self.trained = {
            "generator": Trained(
                self.generator,
                adamw(config.lr, (0.9, 0.99), 0.01),
                {"short": exponential(0.9), "long": exponential(0.99)},
            ),
            "discriminator": Trained(self.discriminator, adamw(config.lr / 2, (0.5, 0.999), 0.0)),
        }
        self.signal_at, self.fail_at = signal_at, fail_at

    @staticmethod
    def draw(generator: torch.Generator) -> Tensor:
        return torch.randn(2, 16, 1, generator=generator)

    def losses(self, step: int, batch: Tensor) -> Iterator[Loss]:
        noise, real = batch
        fake = self.generator(noise)
        yield Loss("generator", nn.functional.softplus(-self.discriminator(fake)).mean(), {"mean": fake.mean()})
        if step == self.signal_at:
            signal.raise_signal(signal.SIGTERM)
        if step == self.fail_at:
            raise SystemError("power cut")
        told = self.discriminator(3 + real), self.discriminator(self.generator(noise).detach())
        yield Loss("discriminator", (nn.functional.softplus(-told[0]) + nn.functional.softplus(told[1])).mean())

    def finish(self) -> dict[str, float]:
        return {}


def weights(stage: Adversarial) -> dict[str, Tensor]:
    return {f"{n}.{k}": v.clone() for n, one in stage.trained.items() for k, v in one.module.state_dict().items()}


@pytest.mark.parametrize(
    ("stop", "error", "continued_at"),
    [({"signal_at": 13}, KeyboardInterrupt, 14), ({"fail_at": 13}, SystemError, 10)],
)
def test_both_resume_bit_for_bit(tmp_path: Path, stop: dict[str, int], error: type[BaseException], continued_at: int):
    """Whether a signal comes between the two steps or the process dies there, no half step is ever kept."""
    there, here = (Toy(**keys(tmp_path, steps=25, out=tmp_path / name, save_every=5)) for name in ("a", "b"))
    whole = Adversarial(there)
    train(whole, there, QUIET)
    with pytest.raises(error):
        train(Adversarial(here, **stop), here, QUIET)
    assert torch.load(here.out / "checkpoint.pt", weights_only=True)["step"] == continued_at
    resumed = Adversarial(here)
    train(resumed, here, QUIET)
    assert all(value.equal(weights(whole)[key]) for key, value in weights(resumed).items())
    states = [torch.load(config.out / "checkpoint.pt", weights_only=True)["trained"] for config in (there, here)]
    assert flat(states[0]) == flat(states[1])
    assert (there.out / "log.csv").read_text() == (here.out / "log.csv").read_text()


def flat(state: object, path: str = "") -> dict[str, object]:
    """Every number of a nested state by its path."""
    if isinstance(state, Tensor):
        return {path: state.tolist()}
    if isinstance(state, dict | list | tuple):
        items = state.items() if isinstance(state, dict) else enumerate(state)
        return {k: v for key, value in items for k, v in flat(value, f"{path}/{key}").items()}
    return {path: state}


def test_checkpoints_hold_everything_under_its_name(tmp_path: Path):
    config = Toy(**keys(tmp_path))
    stage = Adversarial(config)
    train(stage, config, QUIET)
    saved = torch.load(config.out / "checkpoint.pt", weights_only=True)["trained"]
    assert saved.keys() == {"generator", "discriminator"}
    assert saved["generator"]["averages"].keys() == {"short", "long"}
    assert saved["discriminator"]["averages"] == {}
    assert saved["discriminator"]["optimizer"]["param_groups"][0]["betas"] == (0.5, 0.999)
    assert (
        (config.out / "log.csv")
        .read_text()
        .startswith("step,generator_loss,mean,discriminator_loss,generator_lr,discriminator_lr\n")
    )
    # The first average is in place at the end; a module without averages keeps its last weights.
    for name, kept in (("generator", saved["generator"]["averages"]["short"]), ("discriminator", None)):
        expected = saved[name]["module"] if kept is None else kept
        assert all(v.equal(expected[k]) for k, v in stage.trained[name].module.state_dict().items())
    assert not saved["generator"]["module"]["0.weight"].equal(saved["generator"]["averages"]["short"]["0.weight"])


def test_a_module_steps_at_its_own_rate(tmp_path: Path):
    """Each peak follows the schedule: after the warm-up's first step the two rates are halves of each other."""
    config = Toy(**keys(tmp_path, steps=1, warmup=4))
    train(Adversarial(config), config, QUIET)
    saved = torch.load(config.out / "checkpoint.pt", weights_only=True)["trained"]
    rates = {name: one["optimizer"]["param_groups"][0]["lr"] for name, one in saved.items()}
    assert rates == {"generator": config.lr / 4, "discriminator": config.lr / 2 / 4}


def test_the_standard_module_is_that_of_the_configuration(tmp_path: Path):
    config = Toy(**keys(tmp_path, beta2=0.95, weight_decay=0.1, ema=0.5))
    one = standard(nn.Linear(2, 2), config)
    matrix, bias = one.optimizer(one.module).param_groups
    assert (matrix["lr"], matrix["betas"], matrix["weight_decay"]) == (config.lr, (0.9, 0.95), 0.1)
    assert bias["weight_decay"] == 0
    assert [decay(10**6) for decay in one.averages.values()] == [0.5]
