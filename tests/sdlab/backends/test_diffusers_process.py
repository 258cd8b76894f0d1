"""Noise schedules of diffusers schedulers: the levels and the timesteps of each process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import pytest

from sdlab.backends.diffusers.process import read_process
from sdlab.model.parametrisation import X0, Eps, Flow, Parametrisation, V
from sdlab.system.errors import UsageError

PLACE = Path("scheduler_config.json")


def settings(scheduler: Any) -> dict[str, Any]:
    """The content of the file that a scheduler saves."""
    return {"_class_name": type(scheduler).__name__, **scheduler.config}


@pytest.mark.parametrize(
    ("betas", "tolerance"),  # their table is a product in float32, whose error grows to the last levels
    [
        ({"beta_schedule": "linear"}, 1e-4),
        ({"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}, 1e-4),
        ({"beta_schedule": "squaredcos_cap_v2"}, 1e-3),
        ({"beta_schedule": "sigmoid"}, 1e-4),
        ({"trained_betas": [0.001 * (i + 1) for i in range(50)], "num_train_timesteps": 50}, 1e-4),
    ],
    ids=["linear", "scaled_linear", "cosine", "sigmoid", "trained"],
)
def test_a_table_of_betas(betas: dict[str, Any], tolerance: float):
    scheduler = diffusers.DDPMScheduler(**betas)
    levels = read_process(settings(scheduler), PLACE, 0).levels
    assert levels.t_max == scheduler.config.num_train_timesteps - 1
    for t in range(5, int(levels.t_max) + 1, 7):
        bar = float(scheduler.alphas_cumprod[t])
        assert levels.sigma(t) == pytest.approx(((1 - bar) / bar) ** 0.5, rel=tolerance)


@pytest.mark.parametrize(
    ("name", "made"), [("epsilon", Eps()), ("v_prediction", V()), ("sample", X0())], ids=["epsilon", "v", "sample"]
)
def test_a_prediction_type(name: str, made: Parametrisation):
    scheduler = diffusers.DDPMScheduler(prediction_type=name)
    assert type(read_process(settings(scheduler), PLACE, 0).parametrisation) is type(made)


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_the_shift_of_a_flow(shift: float):
    """Even times before the shift are the pipeline's times after it."""
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(sigmas=[0.8, 0.6, 0.4, 0.2])
    process = read_process(settings(scheduler), PLACE, 0)
    assert isinstance(process.parametrisation, Flow)
    for u, t in zip((0.8, 0.6, 0.4, 0.2), scheduler.timesteps.tolist(), strict=True):
        assert process.times.t(process.levels.sigma(1000 * u)) == pytest.approx(t, rel=1e-6)
        assert process.levels.t(process.levels.sigma(1000 * u)) == pytest.approx(1000 * u)


@pytest.mark.parametrize("kind", ["exponential", "linear"])
def test_a_dynamic_shift_is_that_of_the_size(kind: str):
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, time_shift_type=kind)
    mu = 0.5 + (1.15 - 0.5) * (1024 - 256) / (4096 - 256)
    scheduler.set_timesteps(sigmas=[0.5], mu=mu)
    process = read_process(settings(scheduler), PLACE, 1024)
    assert process.times.t(process.levels.sigma(500.0)) == pytest.approx(float(scheduler.timesteps[0]), rel=1e-6)
    shift = {"exponential": "1.878", "linear": "0.63"}[kind]
    assert process.notes == (f"the scheduler shifts time dynamically; for this size the shift is {shift}",)


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        ({"shift": 0}, "shift must be a number above 0, got 0"),
        ({"shift": "3"}, "shift must be a number above 0, got '3'"),
        (
            {"invert_sigmas": True},
            "invert_sigmas is true, a flow from pictures to noise; sdlab supports only its inverse",
        ),
    ],
)
def test_an_invalid_flow_is_an_error(changed: dict[str, Any], line: str):
    flow = settings(diffusers.FlowMatchEulerDiscreteScheduler())
    with pytest.raises(UsageError) as caught:
        read_process({**flow, **changed}, PLACE, 0)
    assert str(caught.value) == f"{PLACE}: {line}"


def test_an_invalid_table_is_an_error():
    table = settings(diffusers.DDPMScheduler(trained_betas=[0.1, 1.5]))
    with pytest.raises(UsageError, match="the noise schedule is invalid: "):
        read_process(table, PLACE, 0)
