"""A learner: a module in training with its optimizer and moving averages."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from sdlab.train import processes
from sdlab.train.average import Average
from sdlab.train.config import Training
from sdlab.train.schedule import learning_rate
from sdlab.train.sharding import Sharded, fitted, fitted_optimizer, number, whole
from sdlab.train.stage import Trained

T = TypeVar("T")


class Learner:
    """One module of a stage in training. The module's weights must be loaded and on their device."""

    def __init__(self, trained: Trained, config: Training) -> None:
        self.module, self.config = trained.module, config
        self._sharded = Sharded(trained.module, config.device) if config.sharded() else None
        self.optimizer = trained.optimizer(trained.module)
        self._parallel = None if config.sharded() else processes.parallel(trained.module)
        self.peaks = [group["lr"] for group in self.optimizer.param_groups]
        self.scaler = torch.amp.GradScaler(torch.device(config.device).type, enabled=config.precision == "float16")
        self.norm = 0.0  # of the last gradients, before clipping
        self.averages = {name: Average(trained.module, decay) for name, decay in trained.averages.items()}

    def compute(self, function: Callable[[], T]) -> T:
        """The value of a function that computes with the module."""
        found: T = function() if self._sharded is None else self._sharded(function)
        return found

    def backward(self, loss: Tensor, batch: int) -> None:
        """Add the gradients of the loss of a batch, the first of which is 0, to those of the batches before.

        They are divided by the number of batches per step, and averaged over all processes.
        """
        if batch == 0:
            self.optimizer.zero_grad(set_to_none=True)  # another module's loss may have left gradients here
        loss = self.scaler.scale(loss / self.config.accumulate)
        if self._parallel is None:
            loss.backward()
            return
        last = batch == self.config.accumulate - 1
        with nullcontext() if last else self._parallel.no_sync():  # the sum of all batches is averaged
            self._parallel(loss).backward()

    def step(self, step: int) -> bool:
        """Clip the gradients, and take one optimizer step at the learning rate of this step.

        A step whose gradients are not finite is left out. With float16 the loss is then scaled less from now on.
        Returns False if it cannot be scaled less, so that the run has diverged.
        """
        self.scaler.unscale_(self.optimizer)
        trained = [p for p in self.module.parameters() if p.grad is not None]
        self.norm = number(nn.utils.get_total_norm([p.grad for p in trained if p.grad is not None]))
        finite = math.isfinite(self.norm)
        for group, peak in zip(self.optimizer.param_groups, self.peaks, strict=True):
            group["lr"] = learning_rate(step, peak, self.config.warmup, self.config.steps, self.config.schedule)
        if finite:
            nn.utils.clip_grads_with_norm_(trained, self.config.clip, torch.tensor(self.norm))
            self.optimizer.step()
        if self.scaler.is_enabled():
            self.scaler.update()
        return finite or self.scaler.get_scale() > 1

    @property
    def rate(self) -> float:
        """The learning rate of the last step; of several groups of parameters, the largest."""
        return max(float(group["lr"]) for group in self.optimizer.param_groups)

    def average(self, step: int) -> None:
        """Update the moving averages."""
        for average in self.averages.values():
            average.update(self.module, step)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """The first average in the module and inference mode, inside the block."""
        live = {key: value.clone() for key, value in self.module.state_dict().items()}
        self.module.load_state_dict(self.result())
        self.module.eval()
        try:
            yield
        finally:
            self.module.load_state_dict(live)
            self.module.train()

    def result(self) -> dict[str, Tensor]:
        """The weights that are saved in the end: the first average or, without averages, those of the module."""
        return next((average.state for average in self.averages.values()), self.module.state_dict())

    def state_dict(self) -> dict[str, Any]:
        """The state that a resumed run needs, with whole tensors. All processes call it together.

        Processes other than the first may get None in place of tensors.
        """
        state: dict[str, Any] = whole(
            {
                "module": self.module.state_dict(),
                "averages": {name: average.state for name, average in self.averages.items()},
                "optimizer": self.optimizer.state_dict(),
                "scaler": self.scaler.state_dict(),
            }
        )
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load a state from `state_dict`.

        Raises:
            KeyError: a part is missing.
            RuntimeError: the weights have other names or shapes.
            ValueError: the optimizer has other parameters, or an average has other weights.
            TypeError, AttributeError: a part is not of its type.
        """
        self.module.load_state_dict(fitted(state["module"], self.module.state_dict()))
        self.optimizer.load_state_dict(fitted_optimizer(state["optimizer"], self.optimizer))
        self.scaler.load_state_dict(state.get("scaler", {}))  # checkpoints from before float16 have none
        for name, average in self.averages.items():
            saved = state["averages"][name]
            if {key: t.shape for key, t in saved.items()} != {key: t.shape for key, t in average.state.items()}:
                raise ValueError(f"the average {name!r} has other weights")
            average.state = fitted(saved, average.state)
