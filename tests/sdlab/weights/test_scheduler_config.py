"""The noise schedule of a diffusers folder: read from the file, and refused if it is of another process."""

from dataclasses import replace
from pathlib import Path

import diffusers
import pytest
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler

import samplers
from sdlab.model.config import SD15
from sdlab.model.noise_schedule import FlowLevels, LevelsConfig
from sdlab.system.errors import UsageError
from sdlab.weights import scheduler_config

PATH = Path("scheduler_config.json")
V1 = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
TABLES = [
    "DDIMScheduler", "DDPMScheduler", "PNDMScheduler", "LMSDiscreteScheduler", "EulerDiscreteScheduler",
    "EulerAncestralDiscreteScheduler", "HeunDiscreteScheduler", "KDPM2DiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler", "DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler",
    "DEISMultistepScheduler", "UniPCMultistepScheduler", "LCMScheduler", "TCDScheduler", "SASolverScheduler",
]  # fmt: skip
OTHERS = [
    "FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler", "FlowMatchLCMScheduler", "EDMEulerScheduler",
    "EDMDPMSolverMultistepScheduler", "CosineDPMSolverMultistepScheduler", "KarrasVeScheduler", "ScoreSdeVeScheduler",
    "CogVideoXDDIMScheduler", "IPNDMScheduler", "VQDiffusionScheduler", "AmusedScheduler", "UnCLIPScheduler",
    "ConsistencyDecoderScheduler", "CMStochasticIterativeScheduler",
]  # fmt: skip


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_every_scheduler_of_a_table_is_read_from_the_file_it_writes(name, prediction):
    written = dict(getattr(diffusers, name)(prediction_type=prediction, **V1).config) | {"_class_name": name}
    ours = scheduler_config.PREDICTIONS[prediction]
    assert scheduler_config.read(written, PATH) == (LevelsConfig(), ours)


@pytest.mark.parametrize("name", OTHERS)
def test_schedulers_of_other_processes_are_refused(name):
    with pytest.raises(
        UsageError, match=rf"json: _class_name is '{name}', a scheduler .*; sdlab loads models"
    ) as error:
        scheduler_config.read({**V1, "_class_name": name}, PATH)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"use_flow_sigmas": True}, "use_flow_sigmas is True, a setting of a rectified flow"),
        ({"shift": 3.0}, "shift is 3.0, a setting of a rectified flow"),
        ({"sigma_data": 0.5}, "sigma_data is 0.5, a setting of the EDM process"),
        ({"sigma_max": 80.0}, "sigma_max is 80.0, a setting of the EDM process"),
        ({"timestep_type": "continuous"}, "timestep_type is 'continuous', a setting of the EDM process"),
        ({"beta_min": 0.1}, "beta_min is 0.1, a setting of another process"),
        ({"trained_betas": [0.1, 0.2]}, "trained_betas is a custom table"),
        ({"_class_name": "MyScheduler"}, "_class_name is 'MyScheduler', a scheduler that sdlab does not know"),
        ({"_class_name": 3}, "_class_name is 3"),
        ({"prediction_type": "x0"}, "is 'x0', but sdlab supports only 'epsilon' and 'v_prediction' and 'sample'"),
        ({"prediction_type": "flow_prediction"}, "prediction_type is 'flow_prediction'"),
        ({"prediction_type": ["epsilon"]}, "prediction_type is \\['epsilon'\\]"),
        ({"beta_schedule": "squaredcos_cap_v2"}, "beta_schedule is 'squaredcos_cap_v2', but sdlab supports only"),
        ({"beta_start": None}, "beta_start is missing"),
        ({"beta_end": "big"}, "beta_end must be a number, got 'big'"),
        ({"beta_end": True}, "beta_end must be a number, got True"),
        ({"beta_end": float("nan")}, "the noise schedule is invalid: LevelsConfig needs 0 < start <= end < 1"),
        ({"beta_end": 0.9999, "num_train_timesteps": 100_000}, "invalid: LevelsConfig: the last level is too large"),
        ({"num_train_timesteps": 10**9}, "the noise schedule is invalid: LevelsConfig.n must be from 2 to 100,000"),
        ({"num_train_timesteps": 1000.0}, "num_train_timesteps must be a whole number, got 1000.0"),
        ({"rescale_betas_zero_snr": "yes"}, "rescale_betas_zero_snr must be true or false, got 'yes'"),
        ({"rescale_betas_zero_snr": True}, "rescale_betas_zero_snr needs prediction_type 'v_prediction'"),
    ],
)
def test_settings_of_other_processes_and_invalid_values_are_named(settings, message):
    with pytest.raises(UsageError, match=message):
        scheduler_config.read({**V1, **settings}, PATH)


def test_a_schedule_is_not_filled_up_with_that_of_version_1():
    """The defaults of diffusers are those of DDPM, so a file without betas does not describe version 1."""
    with pytest.raises(UsageError, match="beta_schedule is missing"):
        scheduler_config.read({"_class_name": "DDIMScheduler", "prediction_type": "epsilon"}, PATH)


def test_zero_terminal_snr_has_the_levels_of_diffusers():
    """Diffusers' Euler replaces ᾱ = 0 at the last timestep by 2⁻²⁴, as `samplers.zero_terminal_snr` does."""
    written = {**V1, "prediction_type": "v_prediction", "rescale_betas_zero_snr": True}
    levels, prediction = scheduler_config.read(written, PATH)
    assert prediction == "v"
    found = levels.schedule()
    assert found.zero_snr
    wanted = EulerDiscreteScheduler(**written).alphas_cumprod.double()
    sigmas = torch.tensor(found.sigmas, dtype=torch.float64)
    torch.testing.assert_close(sigmas[:-1], ((1 - wanted) / wanted).sqrt()[:-1], rtol=1e-3, atol=0)  # theirs is float32
    assert found.sigma_max == 4096
    assert wanted[-1] == 2**-24
    ours = scheduler_config.written(replace(SD15, levels=levels, prediction="v"))
    assert scheduler_config.read(ours, PATH) == (levels, "v")
    assert DDIMScheduler(**ours).config.rescale_betas_zero_snr
    assert samplers.grid("trailing", steps=5, levels=found)[0] == 4096


@pytest.mark.parametrize(
    ("changes", "what"),
    [({"levels": FlowLevels(), "prediction": "v"}, "levels 'flow'"), ({"prediction": "flow"}, "prediction 'flow'")],
)
def test_models_that_diffusers_cannot_express_are_not_exported(changes, what):
    with pytest.raises(UsageError, match=rf"sd15: the diffusers layout has no settings for {what}; export to sdlab"):
        scheduler_config.written(replace(SD15, **changes))


def test_a_prediction_of_the_data_survives_the_round_trip():
    written = scheduler_config.written(replace(SD15, prediction="x0"))
    assert written["prediction_type"] == "sample"
    assert scheduler_config.read(written, PATH) == (SD15.levels, "x0")
