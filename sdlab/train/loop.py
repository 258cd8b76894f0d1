"""The training loop of all stages: schedule, clipping, averages, checkpoints and the log.

A stage defines the trained modules and their losses. The data of a step depend on the seed and the step alone, so a
resumed run uses the same data as an uninterrupted one.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Column
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from sdlab.system.console import line
from sdlab.system.errors import UsageError
from sdlab.system.interrupts import Interrupts
from sdlab.system.text import shown
from sdlab.train import checkpoint, processes
from sdlab.train.batches import batches
from sdlab.train.config import Training
from sdlab.train.divergence import Diverged, Explosion
from sdlab.train.learner import Learner
from sdlab.train.randomness import deterministic_algorithms
from sdlab.train.record import Record
from sdlab.train.sharding import whole
from sdlab.train.snapshots import Snapshots
from sdlab.train.stage import Loss, Stage, Trained
from sdlab.train.start import take

_LOG_EVERY = 10  # steps


def train(stage: Stage, config: Training, console: Console) -> dict[str, float]:
    """Train to `config.steps`, from the checkpoint in `config.out` if it exists. Returns the stage's measurements.

    Raises:
        UsageError: `start` is not usable, or the checkpoint belongs to another run.
        RunError: training diverged, or a file cannot be read or written.
        KeyboardInterrupt: after writing a checkpoint; the same command continues.
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    with deterministic_algorithms(config.deterministic):
        return _train(stage, config, console)


def _train(stage: Stage, config: Training, console: Console) -> dict[str, float]:
    """The run in this process. All processes do the same, and the first one alone writes files."""
    learners = _prepare(stage.trained, config, console, fresh=not checkpoint.exists(config))
    done, spent = checkpoint.resume(config, learners)
    if done:
        line(console, f"continuing {config.out} at step {done} of {config.steps}")
    began = time.perf_counter() - spent
    saved = done
    record = Record(config, done)
    snapshots = Snapshots(config.out, done)
    explosion = Explosion(record.log)
    drawn = batches(stage.draw, config, done)

    def save() -> None:
        nonlocal saved
        if saved < done:
            checkpoint.write(config, learners, done, time.perf_counter() - began)
            saved = done
            record.draw()

    def due(every: int | None) -> bool:
        return every is not None and (done % every == 0 or done == config.steps)

    def preview() -> None:
        pictures = _preview(stage, learners, config)
        if pictures is None:
            raise UsageError(f"`preview_every`: the {config.stage} stage has no pictures to show; remove the key")
        record.pictures(done, pictures)

    with Interrupts().listening() as interrupts, _progress(console) as progress:
        bar = progress.add_task(shown(config.out.name), total=config.steps, completed=done, note="")
        try:
            if config.previews():
                preview()
            for step in range(done, config.steps):
                with interrupts.held():  # steps are atomic: an interrupt waits for the end of the step
                    losses = _step(stage, learners, config, step, next(drawn))
                    for loss in losses:
                        if explosion.reached(_label("loss", loss, learners), float(loss.value)):
                            raise Diverged(loss, learners[loss.name], step)
                    done = step + 1
                    if step % _LOG_EVERY == 0 or done == config.steps:
                        values = _values(losses, learners)
                        record.row(step, values | _rates(losses, learners))
                        progress.update(bar, note=" ".join(f"{k} {v:.4g}" for k, v in values.items()))
                    progress.update(bar, completed=done)
                    if due(config.snapshot_every):
                        for name, learner in learners.items():
                            snapshots.write(name, learner.averages, done)
                    if due(config.previews()):
                        preview()
                    if due(config.save_every):
                        save()
                    interrupts.share(processes.anyone)
        except KeyboardInterrupt:
            save()
            where = checkpoint.newest(config)
            line(console, f"interrupted at step {done} of {config.steps}; the same command continues from {where}")
            raise
        except Diverged as error:
            raise error.diagnosis(config, saved) from None
        finally:
            record.close()
    results = {name: whole(learner.result()) for name, learner in learners.items()}
    if config.sharded():
        stage = config.for_measuring().build()  # with whole weights
    if processes.rank() > 0:
        return {}
    if (length := config.ema_length) is not None:
        results |= {
            name: average
            for name, learner in learners.items()
            if (average := snapshots.combine(name, learner.averages, done, length)) is not None
        }
    for name, one in stage.trained.items():
        one.module.to(config.device).load_state_dict(results[name])
        one.module.eval()
    with torch.no_grad(), torch.compiler.set_stance("force_eager"):
        return {**stage.finish(), "train_minutes": round((time.perf_counter() - began) / 60, 1)}


def _preview(stage: Stage, learners: Mapping[str, Learner], config: Training) -> Tensor | None:
    """The stage's pictures with the averages in the modules."""
    with ExitStack() as stack, torch.no_grad(), torch.compiler.set_stance("force_eager"), _mixed_precision(config):
        for learner in learners.values():
            stack.enter_context(learner.averaged())
        return _first(learners).compute(stage.preview)


def _prepare(trained: Mapping[str, Trained], config: Training, console: Console, *, fresh: bool) -> dict[str, Learner]:
    """The modules on their device, with the weights in `start` for a fresh run, and compiled with `compile`.

    Raises:
        UsageError: `start` is not usable.
        ValueError: more than one module is to be sharded.
    """
    if config.sharded() and len(trained) > 1:
        raise ValueError(f"a sharded stage trains one module, got {', '.join(trained)}")
    for one in trained.values():
        one.module.train()
        if not config.sharded():  # layer by layer, and FSDP2 takes contiguous weights alone
            one.module.to(config.device)
            one.module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if (start := config.start_file()) is not None and fresh:
        first = next(iter(trained.values()))
        line(console, take(start, first.stored or first.module))
    if config.compile:
        for one in trained.values():
            one.module.compile(dynamic=False)  # with symbolic sizes Inductor fails on the U-Net (PyTorch 2.13)
    return {name: Learner(one, config) for name, one in trained.items()}


def _step(
    stage: Stage, learners: Mapping[str, Learner], config: Training, step: int, drawn: Sequence[Any]
) -> list[Loss]:
    """One step of every module that has a loss, in the stage's order, on the drawn batches. Returns the losses.

    Raises:
        Diverged: a loss or gradient is not finite.
    """
    done: list[Loss] = []
    losses = [stage.losses(step, batch) for batch in drawn]
    while (loss := _gradients(losses, learners, config)) is not None:
        learner = learners[loss.name]
        if not learner.step(step):
            raise Diverged(loss, learner, step)
        done.append(loss)
    for learner in learners.values():
        learner.average(step)
    return done


def _first(learners: Mapping[str, Learner]) -> Learner:
    """The first learner, and the only one if it is sharded."""
    return next(iter(learners.values()))


def _label(value: str, loss: Loss, learners: Mapping[str, Learner]) -> str:
    """The name of a value in the log, with that of the module if there are several."""
    return value if len(learners) == 1 else f"{loss.name}_{value}"


def _values(losses: Sequence[Loss], learners: Mapping[str, Learner]) -> dict[str, float]:
    """The losses and their parts by name."""
    named = {
        name: value
        for loss in losses
        for name, value in ((_label("loss", loss, learners), loss.value), *loss.parts.items())
    }
    return {name: float(value) for name, value in named.items()}


def _rates(losses: Sequence[Loss], learners: Mapping[str, Learner]) -> dict[str, float]:
    """The learning rates of the modules that have taken the step, by name."""
    return {_label("lr", loss, learners): learners[loss.name].rate for loss in losses}


def _gradients(batches: Sequence[Iterator[Loss]], learners: Mapping[str, Learner], config: Training) -> Loss | None:
    """Compute the gradients of the next loss of a step, averaged over its batches.

    Returns the averages of the loss and its parts, over all processes too, or None after the last loss.
    """
    found: list[Loss] = []
    for i, losses in enumerate(batches):
        with _mixed_precision(config):
            loss = _first(learners).compute(partial(next, losses, None))
        if loss is None:
            return None
        learners[loss.name].backward(loss.value, i)
        found.append(Loss(loss.name, loss.value.detach(), {name: part.detach() for name, part in loss.parts.items()}))

    names = list(found[0].parts)
    values = [torch.stack([one.value for one in found]).mean(0)]
    values += [torch.stack([one.parts[name] for one in found]).mean(0) for name in names]
    value, *parts = processes.mean(values)
    return Loss(found[0].name, value, dict(zip(names, parts, strict=True)))


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


def _progress(console: Console) -> Progress:
    note = TextColumn("{task.fields[note]}", table_column=Column(ratio=1, no_wrap=True))  # cut if there are many losses
    columns = (TextColumn("{task.description}", markup=False), BarColumn(20), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, TimeRemainingColumn(), note, console=console, expand=True)
