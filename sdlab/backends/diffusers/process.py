"""The process that a network was trained on, from the configuration of its scheduler."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import exp
from pathlib import Path
from typing import Any

import samplers
from sdlab.model.noise_schedule import FlowLevels
from sdlab.model.parametrisation import X0, Eps, Flow, Parametrisation, V
from sdlab.system.errors import UsageError
from sdlab.weights.scheduler_config import read_table

_TABLES: Mapping[str, Parametrisation] = {"eps": Eps(), "v": V(), "x0": X0()}
_FLOW = "flow_prediction"


@dataclass(frozen=True)
class Process:
    """A noise schedule, the timesteps of the network, and what it predicts.

    The time of `levels` is that in which grids are spaced. `times` gives the timestep that the network receives. They
    differ for a flow with a shift, whose `levels` have the time before the shift.
    """

    levels: samplers.TimedLevels
    times: samplers.TimedLevels
    parametrisation: Parametrisation
    notes: tuple[str, ...] = ()


def read_process(settings: Mapping[str, Any], path: Path, tokens: int) -> Process:
    """The process of the scheduler with the settings in the file `path`.

    `tokens` is the number of image tokens of a transformer, on which a dynamic shift depends. Settings of a sampler or
    a grid are not read.

    Raises:
        UsageError: the process is neither variance-preserving with a table of β nor a rectified flow, or a setting is
            missing or invalid.
    """
    if "FlowMatch" in str(settings.get("_class_name")) or settings.get("prediction_type") == _FLOW:
        return _flow(settings, path, tokens)
    levels, prediction = read_table(settings, path)
    return Process(levels, levels, _TABLES[prediction])


def _flow(settings: Mapping[str, Any], path: Path, tokens: int) -> Process:
    """A rectified flow. A shift s maps the time u to t = s u/(1 + (s − 1) u), so σ = s u/(1 − u).

    (Esser et al. 2024, arXiv:2403.03206, eq. 23)
    """
    if settings.get("invert_sigmas"):
        raise UsageError(
            f"{path}: invert_sigmas is true, a flow from pictures to noise; sdlab supports only its inverse"
        )
    shift, notes = _shift(settings, path, tokens)
    low, high = (1000 * t for t in (FlowLevels.t_min, FlowLevels.t_max))
    levels = samplers.ClockLevels(
        low, high, lambda u: shift * u / (1000 - u), lambda sigma: 1000 * sigma / (shift + sigma)
    )
    return Process(levels, FlowLevels(t_min=1e-9, t_max=1 - 1e-9).schedule(), Flow(), notes)


def _shift(settings: Mapping[str, Any], path: Path, tokens: int) -> tuple[float, tuple[str, ...]]:
    """The shift s, and a note on a shift that depends on the size of the picture."""
    if not settings.get("use_dynamic_shifting"):
        return _number(settings, "flow_shift" if "flow_shift" in settings else "shift", 1.0, path), ()
    few, many = _number(settings, "base_image_seq_len", 256, path), _number(settings, "max_image_seq_len", 4096, path)
    low, high = _number(settings, "base_shift", 0.5, path), _number(settings, "max_shift", 1.15, path)
    mu = low + (high - low) * (tokens - few) / (many - few)
    shift = mu if settings.get("time_shift_type") == "linear" else exp(mu)
    return shift, (f"the scheduler shifts time dynamically; for this size the shift is {shift:.4g}",)


def _number(settings: Mapping[str, Any], key: str, default: float, path: Path) -> float:
    value = settings.get(key, default)
    if type(value) not in (int, float) or value <= 0:
        raise UsageError(f"{path}: {key} must be a number above 0, got {value!r}")
    return float(value)
