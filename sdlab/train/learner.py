"""A learner: a module in training with its optimizer and moving averages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from sdlab.train.average import Average
from sdlab.train.config import Training
from sdlab.train.optimizer import learning_rate
from sdlab.train.stage import Trained


class Learner:
    """One module of a stage in training. The module's weights must be loaded and on their device."""

    def __init__(self, trained: Trained, config: Training) -> None:
        self.module, self.config = trained.module, config
        self.optimizer = trained.optimizer(trained.module)
        self.peaks = [group["lr"] for group in self.optimizer.param_groups]
        self.averages = {name: Average(trained.module, decay) for name, decay in trained.averages.items()}

    def backward(self, loss: Tensor) -> Tensor:
        """Compute and clip this module's gradients. Returns their norm before clipping."""
        self.optimizer.zero_grad(set_to_none=True)  # another module's loss may have left gradients here
        loss.backward()
        return nn.utils.clip_grad_norm_(self.module.parameters(), self.config.clip)

    def step(self, step: int) -> None:
        """One optimizer step at the learning rate of this step."""
        for group, peak in zip(self.optimizer.param_groups, self.peaks, strict=True):
            group["lr"] = learning_rate(step, peak, self.config.warmup, self.config.steps)
        self.optimizer.step()

    def average(self, step: int) -> None:
        """Update the moving averages."""
        for average in self.averages.values():
            average.update(self.module, step)

    def settle(self, weights: Mapping[str, Tensor] | None = None) -> None:
        """Load the weights, by default the first average, into the module, ready for inference."""
        for state in [weights] if weights else [average.state for average in self.averages.values()][:1]:
            self.module.load_state_dict(state)
        self.module.eval()

    def state_dict(self) -> dict[str, Any]:
        """The state that a resumed run needs."""
        return {
            "module": self.module.state_dict(),
            "averages": {name: average.state for name, average in self.averages.items()},
            "optimizer": self.optimizer.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load a state from `state_dict`.

        Raises:
            KeyError: a part is missing.
            RuntimeError: the weights have other names or shapes.
            ValueError: the optimizer has other parameters, or an average has other weights.
            TypeError, AttributeError: a part is not of its type.
        """
        self.module.load_state_dict(state["module"])
        self.optimizer.load_state_dict(state["optimizer"])
        for name, average in self.averages.items():
            saved = state["averages"][name]
            if {key: t.shape for key, t in saved.items()} != {key: t.shape for key, t in average.state.items()}:
                raise ValueError(f"the average {name!r} has other weights")
            average.state = saved
