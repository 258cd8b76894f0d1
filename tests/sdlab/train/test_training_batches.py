"""The batches of a training run are the same with and without worker processes."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import chain
from multiprocessing import active_children
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from training import TINY, Toy, keys

from sdlab.system.errors import RunError, UsageError
from sdlab.system.resources import find
from sdlab.train.batches import batches
from sdlab.train.randomness import batch_generator
from sdlab.train.stages import STAGES
from sdlab.train.stages.unet import Examples
from sdlab.train.timesteps import uniform
from sdlab.train.workers import computed_ahead
from sdlab.train.world_pictures import WorldPictures
from sdlab.weights.model_folder import read_config, save_config
from sdlab.weights.vocabulary import tokenizer_in
from sdlab.worlds.registry import open_world

pytestmark = pytest.mark.slow


def noise(generator: torch.Generator) -> Tensor:
    return torch.randn(3, generator=generator)


@dataclass
class Failing:
    """A source whose picture is gone at step 2."""

    def __call__(self, generator: torch.Generator) -> Tensor:
        if generator.initial_seed() == batch_generator(0, 2).initial_seed():
            raise UsageError("cat.png: no such file; restore it")
        return noise(generator)


@pytest.mark.parametrize("workers", [0, 2])
def test_each_step_has_its_batches_in_order(workers: int, tmp_path: Path):
    config = Toy(**keys(tmp_path, steps=5, accumulate=2, workers=workers))
    before = torch.random.get_rng_state()
    found = list(batches(noise, config, done=1))
    assert torch.random.get_rng_state().equal(before)
    expected = [[noise(batch_generator(0, step, i)) for i in range(2)] for step in range(1, 5)]
    assert torch.tensor([[one.tolist() for one in step] for step in found]).equal(
        torch.stack([torch.stack(step) for step in expected])
    )


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_of_a_worker_is_that_of_the_run(workers: int, tmp_path: Path):
    drawn = batches(Failing(), Toy(**keys(tmp_path, steps=9, workers=workers)), done=0)
    next(drawn)
    next(drawn)
    with pytest.raises(UsageError) as error:
        next(drawn)
    assert error.value.lines == ["cat.png: no such file; restore it"]


def children(minimum: int) -> list[int]:
    """The numbers of the worker processes, as soon as there are so many."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        if len(found := [child.pid for child in active_children() if child.pid is not None]) >= minimum:
            return found
        time.sleep(0.001)
    return []


def test_workers_leave_ctrl_c_to_the_training_process_from_their_start(tmp_path: Path):
    config, sent = Toy(**keys(tmp_path, steps=40, workers=2)), list[int]()

    def interrupt() -> None:  # Ctrl-C reaches all processes of a terminal
        for child in children(2):
            os.kill(child, signal.SIGINT)
            sent.append(child)

    watcher = threading.Thread(target=interrupt)
    watcher.start()
    drawn = batches(noise, config, done=0)
    first = next(drawn)
    watcher.join()
    assert len(sent) == 2
    interrupt()
    assert len([first, *drawn]) == 40
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == set()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_worker_that_was_killed_is_one_line(number: signal.Signals, tmp_path: Path):
    drawn = batches(noise, Toy(**keys(tmp_path, steps=10_000, workers=1)), done=0)
    next(drawn)
    for child in children(1):
        os.kill(child, number)
    with pytest.raises(RunError, match=r"^a process that draws batches was ended from outside; the same command cont"):
        list(drawn)


def large(argument: int) -> Tensor:
    """More than a pipe holds, so that workers spend their time in the middle of a batch."""
    return torch.full((2_000_000,), float(argument))


@pytest.mark.parametrize("after", [0.0, 0.001, 0.003, 0.01, 0.03])
def test_a_worker_that_is_killed_while_it_hands_over_a_batch_is_noticed(after: float):
    values = computed_ahead(large, range(10_000), 2)
    assert [float(next(values)[-1]) for _ in range(3)] == [0, 1, 2]
    victim = children(2)[1]
    time.sleep(after)
    os.kill(victim, signal.SIGTERM)
    with pytest.raises(RunError, match=r"^a process that draws batches was ended from outside; the same command cont"):
        list(values)
    assert active_children() == []


def broken(argument: int) -> int:
    return 1 // argument


def test_a_worker_with_an_error_in_its_code_points_to_its_traceback(capfd: pytest.CaptureFixture[str]):
    with pytest.raises(RunError, match=r"^a process that draws batches failed; its traceback is printed above$"):
        list(computed_ahead(broken, range(4), 1))
    assert "ZeroDivisionError" in capfd.readouterr().err


def test_a_run_that_ends_early_leaves_no_workers():
    values = computed_ahead(large, range(10_000), 2)
    next(values)
    values.close()
    assert active_children() == []


def flat(value: Any) -> list[Tensor | str | float | None]:
    """The tensors, texts and numbers in a batch."""
    if value is None or isinstance(value, Tensor | str | int | float):
        return [value]
    parts = vars(value).values() if hasattr(value, "__dict__") else value
    return list(chain.from_iterable(map(flat, parts)))


def same(draw: Callable[[torch.Generator], Any], folder: Path) -> None:
    (one,), (other,) = (next(batches(draw, Toy(**keys(folder, workers=n)), done=0)) for n in (0, 1))
    assert len(flat(one)) > 1
    assert all(a.equal(b) if isinstance(a, Tensor) else a == b for a, b in zip(flat(one), flat(other), strict=True))


@pytest.mark.parametrize(("name", "world"), [("vae", "scenes"), ("text", "portraits"), ("evaluator", "scenes")])
def test_the_data_of_a_stage_can_be_drawn_by_workers(name: str, world: str, tmp_path: Path):
    save_config(tmp_path / "model", TINY)
    same(STAGES[name](**keys(tmp_path, world=world)).build().draw, tmp_path)


@pytest.mark.parametrize("cached", [False, True])
def test_examples_of_the_unet_can_be_drawn_by_workers(cached: bool, tmp_path: Path):
    pictures = WorldPictures(open_world("scenes"), "train", 0.5)
    cache = pictures.batch(9, batch_generator(0, 0)) if cached else None
    folder, levels = find(Path("data/scenes")), TINY.noise_schedule()
    tokenizer = tokenizer_in(folder, read_config(folder).text)
    same(Examples(pictures, 4, (4, 16, 16), tokenizer, levels, partial(uniform, levels=levels), 0.5, cache), tmp_path)
