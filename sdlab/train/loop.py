"""The training loop, written once for every stage: AdamW, warm-up and cosine decay, clipping, EMA, checkpoints, a log.

A stage says what is trained and what its loss is. The data of step i are a function of (seed, i) alone, so a run that
was interrupted and resumed sees what an uninterrupted one would have seen.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, Protocol

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from sdlab.system.errors import RunError, UsageError
from sdlab.system.files import make_folder, replacing
from sdlab.system.interrupts import Interrupts
from sdlab.train.config import TrainConfig
from sdlab.weights import safetensors_file


class Stage(Protocol):
    """What the loop needs to know of a stage."""

    @property
    def trained(self) -> nn.Module:
        """The network whose weights are trained."""
        ...

    def loss(self, step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """The scalar to minimise at this step, and parts of it worth logging."""

    def finish(self) -> dict[str, float]:
        """Called with the averaged weights in place: measure, write the weights, and return what was measured."""


def learning_rate(step: int, config: TrainConfig) -> float:
    """Linear warm-up to `config.lr`, then half a cosine to 0 at `config.steps`."""
    if step < config.warmup:
        return config.lr * (step + 1) / config.warmup
    progress = (step - config.warmup) / max(1, config.steps - config.warmup)
    return config.lr * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))


class Average:
    """Exponential moving average of a module's floating-point state, short at first so that it forgets the start."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.state = {k: v.detach().clone() for k, v in module.state_dict().items()}

    def update(self, module: nn.Module, step: int) -> None:
        """Move towards the module's present weights."""
        decay = min(self.decay, (1 + step) / (10 + step))
        live = module.state_dict()
        floating = [k for k, v in live.items() if v.is_floating_point()]
        torch._foreach_lerp_([self.state[k] for k in floating], [live[k] for k in floating], 1 - decay)
        for k, v in live.items():
            if not v.is_floating_point():
                self.state[k].copy_(v)


def train(stage: Stage, config: TrainConfig, console: Console) -> dict[str, float]:
    """Train to `config.steps`, from the checkpoint in `config.out` when there is one; returns what the stage measured.

    Raises KeyboardInterrupt after a checkpoint has been written, so that the same command continues.
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    module = stage.trained.to(config.device).train()
    module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    checkpoint = config.out / "checkpoint.pt"
    if config.start is not None and not checkpoint.exists():
        console.print(f"{_take(config.start, module)} from {config.start}")
    if config.compile:
        module.compile()
    decayed = [p for p in module.parameters() if p.ndim > 1]
    plain = [p for p in module.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=config.lr, betas=(0.9, config.beta2), fused=True)
    average = Average(module, config.ema)
    start, spent = _resume(checkpoint, module, average, optimizer, config)
    if start:
        console.print(f"continuing {checkpoint} at step {start} of {config.steps}")
    began = time.perf_counter() - spent

    def save(step: int) -> None:
        state = {
            "step": step,
            "seconds": time.perf_counter() - began,
            "config": config.model_dump_json(),
            "module": module.state_dict(),
            "average": average.state,
            "optimizer": optimizer.state_dict(),
        }
        with replacing(checkpoint) as draft:
            try:
                torch.save(state, draft)
            except RuntimeError as error:  # what torch makes of a full disk
                raise RunError(f"cannot write {checkpoint}: {str(error).splitlines()[0]}") from error

    done = start
    make_folder(config.out)
    listening = Interrupts().listening()
    with listening as interrupts, _log(config.out / "log.csv", start) as log, _progress(console) as progress:
        bar = progress.add_task(config.out.name, total=config.steps, completed=start, note="")
        try:
            for step in range(start, config.steps):
                for group in optimizer.param_groups:
                    group["lr"] = learning_rate(step, config)
                generator = torch.Generator().manual_seed(config.seed * 1_000_003 + step)
                dtype = getattr(torch, config.precision)
                autocast = torch.autocast(torch.device(config.device).type, dtype, enabled=dtype != torch.float32)
                with autocast, _attention(config.device):
                    loss, parts = stage.loss(step, generator)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                norm = nn.utils.clip_grad_norm_(module.parameters(), config.clip)
                if not math.isfinite(norm):
                    raise RunError(f"{config.out}: the gradient is {norm} at step {step}; try a smaller lr")
                with interrupts.held():
                    optimizer.step()
                    average.update(module, step)
                    done = step + 1
                if step % 10 == 0 or step + 1 == config.steps:
                    values = {k: float(v.detach()) for k, v in {"loss": loss, **parts}.items()}
                    log(step, values)
                    progress.update(bar, note=" ".join(f"{k} {v:.4g}" for k, v in values.items()))
                progress.update(bar, completed=done)
                if done % config.save_every == 0:
                    save(done)
        except KeyboardInterrupt:
            save(done)
            console.print(f"interrupted at step {done} of {config.steps}; the same command continues from {checkpoint}")
            raise
    if start < config.steps:
        save(config.steps)
    module.load_state_dict(average.state)
    module.eval()
    with torch.no_grad(), torch.compiler.set_stance("force_eager"):
        return {**stage.finish(), "train_minutes": round((time.perf_counter() - began) / 60, 1)}


def _take(path: Path, module: nn.Module) -> str:
    """Give the module what `path` has in its shape, a smaller or an older network, say; how much that is, in words."""
    if not path.is_file():
        raise UsageError(f"start: {path}: no such file")
    stored, _ = safetensors_file.read(path)
    own = module.state_dict()
    taken = {key: stored[key] for key, value in own.items() if key in stored and stored[key].shape == value.shape}
    if not taken:
        raise UsageError(f"start: {path}: has no tensor of the name and shape of one to be trained")
    module.load_state_dict({key: tensor.read().float() for key, tensor in taken.items()}, strict=False)
    return f"{len(taken)} of {len(own)} tensors"


def _attention(device: str) -> AbstractContextManager[object]:
    """On a CPU, fused attention is slow backwards on short sequences: plain products save a third of a step."""
    return sdpa_kernel(SDPBackend.MATH) if torch.device(device).type == "cpu" else nullcontext()


def _resume(
    checkpoint: Path, module: nn.Module, average: Average, optimizer: torch.optim.Optimizer, config: TrainConfig
) -> tuple[int, float]:
    """Load the checkpoint, if there is one, into its three owners; the step it was at and the seconds spent so far."""
    if not checkpoint.exists():
        return 0, 0.0
    try:
        saved: dict[str, Any] = torch.load(checkpoint, map_location=config.device, weights_only=True)
    except Exception as error:
        raise RunError(f"{checkpoint}: cannot be read ({type(error).__name__}); delete it to start again") from error
    free = {"steps", "save_every", "threads", "compile", "device", "out"}  # more steps prolong a run
    now, then = json.loads(config.model_dump_json()), json.loads(saved["config"])
    changed = [k for k in now if k not in free and now[k] != then.get(k)]
    if changed:
        what = ", ".join(f"{k} was {then.get(k)!r}, is now {now[k]!r}" for k in changed)
        raise UsageError(f"{checkpoint} belongs to another run ({what}); give `out` another folder or delete it")
    module.load_state_dict(saved["module"])
    average.state = saved["average"]
    optimizer.load_state_dict(saved["optimizer"])
    return saved["step"], saved["seconds"]


@contextmanager
def _log(path: Path, start: int) -> Iterator[Callable[[int, dict[str, float]], None]]:
    """A CSV that grows by a row; rows of steps that will be repeated after a resume are dropped first."""
    kept = path.read_text().splitlines(keepends=True) if start and path.exists() else []
    kept = [line for line in kept if not line[0].isdigit() or int(line.split(",")[0]) < start]
    with replacing(path) as draft:
        draft.write_text("".join(kept))
    with path.open("a") as file:

        def row(step: int, values: dict[str, float]) -> None:
            if file.tell() == 0:
                file.write(",".join(["step", *values]) + "\n")
            file.write(",".join([str(step), *(f"{v:.6g}" for v in values.values())]) + "\n")
            file.flush()

        yield row


def _progress(console: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, TimeRemainingColumn(), TextColumn("{task.fields[note]}"), console=console)
