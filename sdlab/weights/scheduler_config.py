"""The noise schedule and the prediction type of a diffusers folder, from its `scheduler_config.json`.

That file also has settings of a sampler and a grid (`timestep_spacing`, `clip_sample`, `use_karras_sigmas`, …). They
are not read, because a run chooses its own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import samplers
from sdlab.model.config import ModelConfig, Prediction
from sdlab.model.noise_schedule import LevelsConfig
from sdlab.system.errors import UsageError

PREDICTIONS: dict[str, Prediction] = {"epsilon": "eps", "v_prediction": "v", "sample": "x0"}
_BETAS = ("scaled_linear", "linear")
_SUPPORTED = "sdlab loads models that were trained with a table of betas, as Stable Diffusion v1"

# The schedulers of diffusers for such models.
_CLASSES = re.compile(
    r"((DDIM|DDPM)(Parallel|Inverse)?|PNDM|LMSDiscrete|Euler(Ancestral)?Discrete|HeunDiscrete|KDPM2(Ancestral)?Discrete"
    r"|DPMSolver(Multistep(Inverse)?|Singlestep|SDE)|DEISMultistep|UniPCMultistep|SASolver|LCM|TCD|RePaint)Scheduler"
)
_OTHERS = (
    (r"Flow", "of a rectified flow"),
    (r"EDM|Karras|CosineDPM", "of the EDM process"),
    (r"Sde", "of a process in continuous time"),
)
# Settings of other processes. They have no effect if they are null or false.
_FLOW, _EDM = "a rectified flow", "the EDM process"
_SETTINGS = {
    **dict.fromkeys(("use_flow_sigmas", "use_dynamic_shifting", "shift", "base_shift", "max_shift"), _FLOW),
    **dict.fromkeys(("shift_terminal", "base_image_seq_len", "invert_sigmas"), _FLOW),
    **dict.fromkeys(("sigma_data", "sigma_min", "sigma_max", "sigma_schedule", "rho"), _EDM),
    **dict.fromkeys(("snr_shift_scale", "beta_min", "beta_max", "sampling_eps"), "another process"),
}


def read(settings: Mapping[str, Any], path: Path) -> tuple[LevelsConfig, Prediction]:
    """The noise schedule and the prediction type that the settings in the file `path` describe.

    Settings are taken from the file. Only those that old files omit have a default, the value of all models then.

    Raises:
        UsageError: the settings are of another process than a variance-preserving one with a table of β, or one of
            them is missing or invalid.
    """
    if other := _other_process(settings):
        raise UsageError(f"{path}: {other}; {_SUPPORTED}")
    if missing := [key for key in ("beta_schedule", "beta_start", "beta_end") if settings.get(key) is None]:
        raise UsageError(f"{path}: {missing[0]} is missing; {_SUPPORTED}")
    prediction = _one_of(settings.get("prediction_type", "epsilon"), "prediction_type", PREDICTIONS, path)
    betas = _one_of(settings["beta_schedule"], "beta_schedule", {name: name for name in _BETAS}, path)
    start, end = (_number(settings[key], key, path) for key in ("beta_start", "beta_end"))
    n, zero_snr = settings.get("num_train_timesteps", 1000), settings.get("rescale_betas_zero_snr", False)
    if type(zero_snr) is not bool:
        raise UsageError(f"{path}: rescale_betas_zero_snr must be true or false, got {zero_snr!r}")
    if type(n) is not int:
        raise UsageError(f"{path}: num_train_timesteps must be a whole number, got {n!r}")
    if zero_snr and prediction == "eps":
        raise UsageError(
            f"{path}: rescale_betas_zero_snr needs prediction_type 'v_prediction' or 'sample', because at pure noise a "
            "prediction of the noise says nothing about the picture"
        )
    try:
        return LevelsConfig(betas, start, end, n, zero_snr), prediction
    except ValueError as error:
        raise UsageError(f"{path}: the noise schedule is invalid: {error}") from None


def read_table(settings: Mapping[str, Any], path: Path) -> tuple[samplers.DiscreteLevels, Prediction]:
    """Like `read`, for all tables of β: also the cosine and the sigmoid one, and a table that was trained.

    Raises:
        UsageError: as in `read`, or the table does not give rising noise levels.
    """
    betas, name = settings.get("trained_betas"), settings.get("beta_schedule")
    if betas is None and name not in ("squaredcos_cap_v2", "sigmoid"):
        config, prediction = read(settings, path)
        return config.schedule(), prediction
    # A linear table stands in for the other, so that `read` checks all other settings.
    ends = {"beta_start": settings.get("beta_start", 1e-4), "beta_end": settings.get("beta_end", 0.02)}
    config, prediction = read({**settings, **ends, "trained_betas": None, "beta_schedule": "linear"}, path)
    try:
        if betas is not None:
            levels = samplers.levels_of_betas(map(float, betas))
        elif name == "sigmoid":
            levels = samplers.discrete_levels(name, config.start, config.end, config.n)
        else:
            levels = samplers.cosine_levels(config.n)
        return samplers.zero_terminal_snr(levels) if config.zero_snr else levels, prediction
    except (TypeError, ValueError, ArithmeticError) as error:
        raise UsageError(f"{path}: the noise schedule is invalid: {error}") from None


def written(config: ModelConfig) -> dict[str, Any]:
    """The settings of a model's noise schedule and prediction type, the inverse of `read`.

    Raises:
        UsageError: the settings of diffusers cannot express them.
    """
    levels = config.levels
    names = {ours: theirs for theirs, ours in PREDICTIONS.items()}
    if not isinstance(levels, LevelsConfig) or config.prediction not in names:
        what = f"prediction {config.prediction!r}" if isinstance(levels, LevelsConfig) else f"levels {levels.kind!r}"
        raise UsageError(f"{config.name}: the diffusers layout has no settings for {what}; export to sdlab or original")
    return {
        "beta_end": levels.end,
        "beta_schedule": levels.betas,
        "beta_start": levels.start,
        "num_train_timesteps": levels.n,
        "prediction_type": names[config.prediction],
        "rescale_betas_zero_snr": levels.zero_snr,
        "trained_betas": None,
    }


def _other_process(settings: Mapping[str, Any]) -> str | None:
    """The setting that belongs to another process, as in `"sigma_data is 0.5, a setting of the EDM process"`."""
    name = settings.get("_class_name")
    if name is not None and not (isinstance(name, str) and _CLASSES.fullmatch(name)):
        kind = next((what for pattern, what in _OTHERS if re.search(pattern, str(name))), "that sdlab does not know")
        return f"_class_name is {name!r}, a scheduler {kind}"
    for key, process in _SETTINGS.items():
        if settings.get(key) not in (None, False):
            return f"{key} is {settings[key]!r}, a setting of {process}"
    if settings.get("timestep_type") not in (None, "discrete"):
        return f"timestep_type is {settings['timestep_type']!r}, a setting of {_EDM}"
    if settings.get("trained_betas") is not None:
        return "trained_betas is a custom table, which sdlab does not read"
    return None


def _one_of(value: object, key: str, known: Mapping[str, Any], path: Path) -> Any:
    if isinstance(value, str) and value in known:
        return known[value]
    raise UsageError(f"{path}: {key} is {value!r}, but sdlab supports only {' and '.join(map(repr, known))}")


def _number(value: object, key: str, path: Path) -> float:
    if type(value) in (int, float):
        return value  # type: ignore[return-value]
    raise UsageError(f"{path}: {key} must be a number, got {value!r}")
