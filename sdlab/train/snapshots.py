"""Snapshots of power-function averages, from which averages of any length are computed after training.

A snapshot is one file per trained module, `averages/MODULE.STEPS.safetensors` in the run folder. It holds every
power-function average of the module after that many steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from sdlab.system.errors import RunError, UsageError
from sdlab.system.files import make_folder, replacing
from sdlab.system.output import remark
from sdlab.train import processes
from sdlab.train.average import Average
from sdlab.train.power_average import LENGTHS, PowerAverage, combination
from sdlab.train.sharding import whole

_LARGEST_ERROR = 0.1  # of a combination, as a share of the norm of the wanted profile


class Snapshots:
    """The snapshots of one run. Those after step `start` are dropped first, because a resumed run repeats them."""

    def __init__(self, out: Path, start: int) -> None:
        self._folder = out / "averages"
        for path in self._folder.glob("*.safetensors"):
            if _steps(path) > start:
                path.unlink(missing_ok=True)

    def write(self, name: str, averages: Mapping[str, Average], steps: int) -> None:
        """Store the power-function averages of the module `name`, if it has any. All processes call it together.

        Raises:
            RunError: the file cannot be written.
        """
        states = {length: whole(average.state) for length, average in _powers(averages).items()}
        if states and processes.rank() == 0:
            tensors = {
                f"{length}/{key}": t.contiguous() for length, state in states.items() for key, t in state.items()
            }
            make_folder(self._folder)
            with replacing(self._folder / f"{name}.{steps}.safetensors") as draft:
                draft.write_bytes(save(tensors))

    def combine(
        self, name: str, averages: Mapping[str, Average], steps: int, length: float
    ) -> dict[str, Tensor] | None:
        """The average of this length over the first `steps` steps. None if the module has no power-function averages.

        Integer buffers are those of the last snapshot. Too few snapshots for this length are a warning.

        Raises:
            RunError: a snapshot is damaged.
            UsageError: no snapshot was taken after `steps` steps.
        """
        lengths = _powers(averages)
        if not lengths:
            return None
        paths = sorted(self._folder.glob(f"{name}.*.safetensors"), key=_steps)
        if not paths or _steps(paths[-1]) != steps:
            raise UsageError(f"{self._folder} has no snapshot of step {steps}; remove `ema_length` or train again")
        stored = [(_steps(path), one) for path in paths for one in lengths]
        found, error = combination(stored, (steps, length))
        if error > _LARGEST_ERROR:
            remark(
                f"warning: the snapshots in {self._folder} give an average of `ema_length` = {length} that is "
                f"{error:.0%} off; use a length from {LENGTHS[0]} to {LENGTHS[1]}, or train again with a "
                "smaller `snapshot_every`"
            )
        factors = dict(zip(stored, found, strict=True))
        result: dict[str, Tensor] = {}
        for path in paths:
            for label, tensor in _read(path).items():
                one, _, key = label.partition("/")
                if tensor.is_floating_point():  # summed in float64, because the factors alternate in sign
                    part = factors[_steps(path), float(one)] * tensor.double()
                    result[key] = result[key] + part if key in result else part
                else:
                    result[key] = tensor
        return {key: tensor.float() if tensor.is_floating_point() else tensor for key, tensor in result.items()}


def _powers(averages: Mapping[str, Average]) -> dict[float, Average]:
    """The power-function averages by length."""
    return {one.decay.length: one for one in averages.values() if isinstance(one.decay, PowerAverage)}


def _steps(path: Path) -> int:
    number = path.name.split(".")[-2]
    return int(number) if number.isdecimal() else 0


def _read(path: Path) -> dict[str, Tensor]:
    try:
        return load(path.read_bytes())
    except (SafetensorError, OSError) as error:
        raise RunError(f"{path}: cannot be read ({type(error).__name__}); delete it") from error
