"""Muon on matrices, and another optimizer on all other parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from sdlab.system.errors import UsageError


class Muon(torch.optim.Optimizer):
    """`torch.optim.Muon` on the weights of linear layers and convolutions; `others` builds the optimizer of the rest.

    The update is scaled to the size of AdamW's (Liu et al. 2025, arXiv:2502.16982), so both use the same learning rate
    and weight decay.

    Raises:
        UsageError: this version of PyTorch has no Muon.
    """

    def __init__(
        self,
        module: nn.Module,
        lr: float,
        weight_decay: float,
        others: Callable[[list[nn.Parameter]], torch.optim.Optimizer],
    ) -> None:
        layers = [one for one in module.modules() if isinstance(one, nn.Linear | nn.Conv2d)]
        weights = {
            id(p): p for layer in layers for name, p in layer.named_parameters(recurse=False) if name == "weight"
        }
        self._weights = list(weights.values())
        self._matrices = [_matrix(p.detach(), p) for p in self._weights]
        try:
            self._muon = torch.optim.Muon(
                [{"params": self._matrices}], lr, weight_decay, adjust_lr_fn="match_rms_adamw"
            )
        except AttributeError:
            raise UsageError(
                f'`optimizer = "muon"` needs PyTorch 2.9 or newer, and this is {torch.__version__}; use "adamw"'
            ) from None
        self._others = others([p for p in module.parameters() if id(p) not in weights])
        rest = [{"params": group["params"], "lr": group["lr"]} for group in self._others.param_groups]
        super().__init__([{"params": self._weights}, *rest], {"lr": lr})

    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step of both optimizers at the learning rates in `param_groups`."""
        inner = [*self._muon.param_groups, *self._others.param_groups]
        for group, own in zip(inner, self.param_groups, strict=True):
            group["lr"] = own["lr"]
        for p, matrix in zip(self._weights, self._matrices, strict=True):
            matrix.grad = None if p.grad is None else _matrix(p.grad, p)
        self._muon.step()
        self._others.step()

    def state_dict(self) -> dict[str, Any]:
        """The states of both optimizers."""
        return {"muon": self._muon.state_dict(), "others": self._others.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state from `state_dict`.

        Raises:
            KeyError: a part is missing.
            ValueError: the optimizers have other parameters.
        """
        self._muon.load_state_dict(state_dict["muon"])
        self._others.load_state_dict(state_dict["others"])


def _matrix(kernel: Tensor, like: Tensor) -> Tensor:
    """A kernel (O, I, H, W) as a matrix (O, I·H·W) or, if `like` is in the channels-last layout, (O, H·W·I).

    `like` itself shares its memory with the result. The order of the columns does not matter to Muon.
    """
    return (kernel if like.is_contiguous() else kernel.movedim(1, -1)).flatten(1)
