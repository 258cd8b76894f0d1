"""The diagnosis of a run that diverged."""

from __future__ import annotations

import math

from sdlab.system.errors import RunError
from sdlab.train import checkpoint, processes
from sdlab.train.config import Training
from sdlab.train.learner import Learner
from sdlab.train.log import LossLog
from sdlab.train.sharding import number
from sdlab.train.stage import Loss

_FACTOR = 1000.0  # times the largest of the first losses
_PATIENCE = 10  # steps; a penalty that is applied at some steps alone does not count


class Explosion:
    """Watches for losses that stay far larger than they were at first."""

    def __init__(self, log: LossLog) -> None:
        self._log, self._steps = log, dict[str, int]()

    def reached(self, name: str, value: float) -> bool:
        """Whether the loss in this column of the log has been far too large at ten steps in succession."""
        early = self._log.early(name)
        large = early is not None and abs(value) > _FACTOR * early > 0
        self._steps[name] = self._steps.get(name, 0) + 1 if large else 0
        return self._steps[name] >= _PATIENCE


class Diverged(Exception):
    """A loss or gradient that is not finite, or a loss that is far too large."""

    def __init__(self, loss: Loss, learner: Learner, step: int) -> None:
        self.loss, self.learner, self.step = loss, learner, step

    def diagnosis(self, config: Training, saved: int) -> RunError:
        """What is known about it. `saved` is the step of the last checkpoint, 0 without one.

        All processes call it together. Those other than the first leave the details to the first.
        """
        gradients = {name: p.grad for name, p in self.learner.module.named_parameters() if p.grad is not None}
        norms = {name: number(gradient.norm()) for name, gradient in gradients.items()}
        if processes.rank() > 0:
            return RunError(f"training diverged at step {self.step}; see the error of the first process")
        rate = self.learner.rate
        largest = max(norms, key=lambda name: _size(norms[name]), default="none")
        kept = f"the last checkpoint, {checkpoint.newest(config)}, is of step {saved}" if saved else "no checkpoint yet"
        return RunError(
            f"training diverged at step {self.step}: the loss of `{self.loss.name}` is {float(self.loss.value):.4g}, "
            f"the norm of its gradient {self.learner.norm:.4g} (largest in `{largest}`), the learning rate {rate:.3g}",
            f"{kept}; try a smaller `lr` or `clip`, or a longer `warmup`, in another `out`",
        )


def _size(norm: float) -> float:
    """A norm, infinite if it is not a number."""
    return norm if math.isfinite(norm) else math.inf
