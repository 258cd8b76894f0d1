"""The training loop of all stages: schedule, clipping, averages, checkpoints and the log.

A stage defines the trained modules and their losses. The data of a step depend on the seed and the step alone, so a
resumed run uses the same data as an uninterrupted one.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from sdlab.system.console import line
from sdlab.system.errors import RunError, UsageError
from sdlab.system.files import make_folder
from sdlab.system.interrupts import Interrupts
from sdlab.system.text import shown
from sdlab.train import checkpoint
from sdlab.train.config import Training
from sdlab.train.learner import Learner
from sdlab.train.log import LossLog
from sdlab.train.snapshots import Snapshots
from sdlab.train.stage import Stage, Trained
from sdlab.weights import weights_file

_LOG_EVERY = 10  # steps


def train(stage: Stage, config: Training, console: Console) -> dict[str, float]:
    """Train to `config.steps`, from the checkpoint in `config.out` if it exists. Returns the stage's measurements.

    Raises:
        UsageError: `start` is not usable, or the checkpoint belongs to another run.
        RunError: a gradient is not finite, or a file cannot be read or written.
        KeyboardInterrupt: after writing a checkpoint; the same command continues.
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    path = config.out / "checkpoint.pt"
    learners = _prepare(stage.trained, config, console, fresh=not path.exists())
    start, spent = checkpoint.resume(path, config, learners)
    if start:
        line(console, f"continuing {path} at step {start} of {config.steps}")
    began = time.perf_counter() - spent

    def save(steps: int) -> None:
        checkpoint.write(path, config, learners, steps, time.perf_counter() - began)

    def snapshot(steps: int) -> None:
        for name, learner in learners.items():
            snapshots.write(name, learner.averages, steps)

    done = start
    make_folder(config.out)
    snapshots = Snapshots(config.out, start)
    log = LossLog(config.out / "log.csv", start)
    with Interrupts().listening() as interrupts, _progress(console) as progress:
        bar = progress.add_task(shown(config.out.name), total=config.steps, completed=start, note="")
        try:
            for step in range(start, config.steps):
                with interrupts.held():  # steps are atomic: an interrupt waits for the end of the step
                    values = _step(stage, learners, config, step)
                    done = step + 1
                if step % _LOG_EVERY == 0 or done == config.steps:
                    numbers = {name: float(value) for name, value in values.items()}
                    log.row(step, numbers)
                    progress.update(bar, note=" ".join(f"{k} {v:.4g}" for k, v in numbers.items()))
                progress.update(bar, completed=done)
                if config.snapshot_every and done % config.snapshot_every == 0:
                    snapshot(done)
                if done % config.save_every == 0:
                    save(done)
        except KeyboardInterrupt:
            save(done)
            line(console, f"interrupted at step {done} of {config.steps}; the same command continues from {path}")
            raise
    if start < config.steps:
        snapshot(config.steps)
        save(config.steps)
    for name, learner in learners.items():
        length = config.ema_length
        learner.settle(None if length is None else snapshots.combine(name, learner.averages, done, length))
    with torch.no_grad(), torch.compiler.set_stance("force_eager"):
        return {**stage.finish(), "train_minutes": round((time.perf_counter() - began) / 60, 1)}


def _prepare(trained: Mapping[str, Trained], config: Training, console: Console, *, fresh: bool) -> dict[str, Learner]:
    """The modules on their device, with the weights in `start` for a fresh run, and compiled with `compile`."""
    for one in trained.values():
        one.module.to(config.device).train()
        one.module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if config.start is not None and fresh:
        first = next(iter(trained.values()))
        line(console, f"{_take(config.start, first.stored or first.module)} from {config.start}")
    if config.compile:
        for one in trained.values():
            one.module.compile()
    return {name: Learner(one, config) for name, one in trained.items()}


def _step(stage: Stage, learners: Mapping[str, Learner], config: Training, step: int) -> dict[str, Tensor]:
    """One step of every module that has a loss, in the stage's order; returns the values to log."""
    values: dict[str, Tensor] = {}
    losses = stage.losses(step, torch.Generator().manual_seed(config.seed * 1_000_003 + step))
    while True:
        with _mixed_precision(config):
            loss = next(losses, None)
        if loss is None:
            break
        learner = learners[loss.name]
        norm = learner.backward(loss.value)
        if not math.isfinite(norm):
            raise RunError(f"{config.out}: the gradient is {float(norm)} at step {step}; try a smaller lr")
        learner.step(step)
        values["loss" if len(learners) == 1 else f"{loss.name}_loss"] = loss.value.detach()
        values |= {name: part.detach() for name, part in loss.parts.items()}
    for learner in learners.values():
        learner.average(step)
    return values


@contextmanager
def _mixed_precision(config: Training) -> Iterator[None]:
    """The forward passes of a step: autocast, and the fastest attention for training on the device."""
    device, dtype = torch.device(config.device).type, getattr(torch, config.precision)
    mixed = dtype != torch.float32
    # The backward pass of fused attention on a CPU is up to twice as slow as plain products in bfloat16, and up to
    # three times as fast in float32.
    plain = mixed and device == "cpu"
    attention: AbstractContextManager[object] = sdpa_kernel(SDPBackend.MATH) if plain else nullcontext()
    with torch.autocast(device, dtype, enabled=mixed), attention:
        yield


def _take(path: Path, module: nn.Module) -> str:
    """Copy the tensors of a file with matching name and shape into the module. Returns a text with their number.

    Frozen parameters are unchanged.

    Raises:
        UsageError: the file is missing or has another format, or no tensor matches.
        RunError: the file is damaged.
    """
    if not path.is_file():
        raise UsageError(f"`start`: {path}: no such file")
    stored, _ = weights_file.read(path)
    frozen = {key for key, p in module.named_parameters() if not p.requires_grad}
    own = {key: value for key, value in module.state_dict().items() if key not in frozen}
    taken = {key: stored[key] for key, value in own.items() if key in stored and stored[key].shape == value.shape}
    if not taken:
        raise UsageError(f"`start`: {path} has no tensor whose name and shape match; give weights of this network")
    module.load_state_dict({key: tensor.read().float() for key, tensor in taken.items()}, strict=False)
    return f"{len(taken)} of {len(own)} tensors"


def _progress(console: Console) -> Progress:
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, TimeRemainingColumn(), TextColumn("{task.fields[note]}"), console=console)
