"""Networks in the σ clock: a network that knows the data's law must become that law's exact denoiser."""

from dataclasses import replace
from math import exp

import pytest
import torch

import samplers
from samplers.denoiser import Unguided
from samplers.exact.problems import Gaussian
from sdlab.denoiser import NetworkDenoiser
from sdlab.model.config import SCENES, SD15
from sdlab.model.diffusion import Unet
from sdlab.model.noise_schedule import EdmLevels, FlowLevels, LevelsConfig
from sdlab.model.parametrisation import Edm, Eps, V

LEVELS = samplers.discrete_levels()
LAW = Gaussian(std=0.7, mean=0.3)


def predictions(sigma, x, x0):
    """What networks with each prediction return if they estimate x̂₀ for x = x₀ + σ ε, as in their papers."""
    eps, alpha = (x - x0) / sigma, (1 + sigma**2) ** -0.5
    spread = (sigma**2 + STD**2) ** 0.5
    return {
        "eps": eps,
        "v": alpha * eps - alpha * sigma * x0,
        "x0": x0,
        "flow": eps - x0,
        "edm": (x0 - STD**2 / spread**2 * x) / (sigma * STD / spread),
    }


def model(prediction, levels):
    return replace(SCENES, prediction=prediction, levels=levels)


STD = 0.7  # of the data, as the EDM parametrisation is told
EDM = EdmLevels(sigma_data=STD)
MODELS = {
    "eps": model("eps", LevelsConfig()),
    "v": model("v", LevelsConfig()),
    "v, zero SNR": model("v", LevelsConfig(zero_snr=True)),
    "x0": model("x0", LevelsConfig()),
    "x0, zero SNR": model("x0", LevelsConfig(zero_snr=True)),
    "flow": model("flow", FlowLevels()),
    "flow, table": model("flow", LevelsConfig()),
    "v, flow": model("v", FlowLevels()),
    "edm": model("edm", EDM),
    "eps, edm": model("eps", EDM),
}
EVERY = pytest.mark.parametrize("config", MODELS.values(), ids=MODELS)


class ExactNetwork:
    """What a perfectly trained network returns for `LAW`, from its input and the timestep alone."""

    def __init__(self, config, dtype=torch.float64):
        self.config, self.dtype, self.seen = config, dtype, []

    def __call__(self, scaled, t, context):
        self.seen.append(t.tolist())
        levels = self.config.noise_schedule()
        ends = levels.t_min, levels.t_max
        sigma = [levels.sigma(min(max(s, ends[0]), ends[1])) for s in t.tolist()]  # t is float32
        sigma = torch.tensor(sigma, dtype=torch.float64).view(-1, 1, 1, 1)
        spread = STD if self.config.prediction == "edm" else 1.0
        scale = 1 / (1 + sigma) if self.config.prediction == "flow" else (sigma**2 + spread**2) ** -0.5
        x = scaled.double() / scale
        x0 = LAW.denoise(x, sigma.flatten())
        return predictions(sigma, x, x0)[self.config.prediction].to(self.dtype)


@EVERY
@pytest.mark.parametrize("sigma", [0.05, 0.8, 3.7, 14.0])
def test_a_perfect_network_becomes_the_exact_denoiser(config, sigma):
    x = sigma * torch.randn(3, 4, 2, 2, dtype=torch.float64)
    denoise = NetworkDenoiser.of(ExactNetwork(config), config)
    # Timesteps pass through float32, so σ is known to about 1e-7 of their range of 1000.
    torch.testing.assert_close(denoise(x, sigma, torch.zeros(3)), LAW.denoise(x, sigma), atol=2e-5, rtol=1e-5)


@EVERY
def test_each_image_may_have_its_own_level(config):
    x, sigma = torch.randn(3, 4, 2, 2), torch.tensor([0.1, 1.0, 10.0])
    denoise = NetworkDenoiser.of(ExactNetwork(config), config)
    each = [denoise(x[i : i + 1], sigma[i].item(), torch.zeros(1)) for i in range(3)]
    torch.testing.assert_close(denoise(x, sigma, torch.zeros(3)), torch.cat(each))


@pytest.mark.parametrize(
    ("prediction", "levels", "sigma", "t"),
    [
        ("eps", LevelsConfig(), LEVELS.sigma(499.25), 499.25),
        ("flow", FlowLevels(), 3.0, 750.0),
        ("edm", EDM, exp(2), 500.0),
    ],
)
def test_the_network_gets_fractional_timesteps(prediction, levels, sigma, t):
    network = ExactNetwork(config := model(prediction, levels))
    NetworkDenoiser.of(network, config)(torch.zeros(2, 4, 1, 1), sigma, torch.zeros(2))
    assert network.seen[0] == pytest.approx([t] * 2, abs=1e-3)


def test_edm_with_unit_variance_is_v_with_the_opposite_sign():
    sigma = torch.tensor([0.01, 0.5, 2.0, 70.0], dtype=torch.float64)
    edm, v = Edm(1.0), V()
    torch.testing.assert_close(edm.scale(sigma), v.scale(sigma))
    for ours, theirs in zip(edm.target(sigma), v.target(sigma), strict=True):
        torch.testing.assert_close(ours, -theirs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_result_has_the_dtype_of_the_state(dtype):
    unet = Unet(SCENES.unet).to(torch.bfloat16).eval()
    denoise = NetworkDenoiser.of(unet, SCENES)
    x = torch.randn(2, *SCENES.latent_shape, dtype=dtype)
    with torch.no_grad():
        for sigma in (0.5, torch.tensor([0.5, 2.0])):
            assert denoise(x, sigma, torch.randn(2, SCENES.text.context_length, 128)).dtype == dtype


@pytest.mark.parametrize("config", [SD15, SCENES], ids=lambda c: c.name)
def test_levels_and_prediction_come_from_the_configuration(config):
    denoise = NetworkDenoiser.of(ExactNetwork(config), config)
    assert isinstance(denoise.parametrisation, {"eps": Eps, "v": V}[config.prediction])
    levels = config.levels
    assert denoise.levels == samplers.discrete_levels(levels.betas, levels.start, levels.end, levels.n)


def sampled(denoise, sampler, sigmas):
    x = sigmas[0] * samplers.seeded([2, 3])(torch.zeros(2, 4, 1, 1, dtype=torch.float64))
    return samplers.run(sampler, Unguided(denoise), x, sigmas, noise=samplers.seeded([0, 1]))


FEW = pytest.mark.parametrize("name", ["v, zero SNR", "x0", "flow", "edm"])


@FEW
@pytest.mark.parametrize("sampler", samplers.SAMPLERS)
def test_every_sampler_runs_on_every_model_as_on_the_exact_denoiser(name, sampler):
    """Few steps are enough, since the two are compared step by step with the same noise."""
    denoise = NetworkDenoiser.of(ExactNetwork(MODELS[name]), MODELS[name])
    levels = MODELS[name].noise_schedule()
    fitted = samplers.make(sampler).with_levels(levels)
    sigmas = samplers.grid("karras", steps=8, levels=levels)
    ours = sampled(lambda x, sigma: denoise(x, sigma, torch.zeros(2)), fitted, sigmas)
    torch.testing.assert_close(ours, sampled(LAW.denoise, fitted, sigmas), atol=2e-3, rtol=0)


COUNTED = {"ays", "ddim_uniform", "gits", "leading", "simple", "turbo"}  # in the timesteps of a table


@FEW
@pytest.mark.parametrize("grid", sorted(samplers.GRIDS.keys() - {"explicit"}))
def test_every_grid_fits_every_model_but_those_of_a_table(name, grid):
    levels = MODELS[name].noise_schedule()
    table = isinstance(levels, samplers.DiscreteLevels)
    if (grid in COUNTED and not table) or (grid == "gits" and levels.sigma_max > 15):
        with pytest.raises(ValueError, match=r"needs discrete levels|is a table for sigma|lists timesteps"):
            samplers.grid(grid, steps=8, levels=levels)
        return
    sigmas = samplers.grid(grid, steps=8, levels=levels)
    denoise = NetworkDenoiser.of(ExactNetwork(MODELS[name]), MODELS[name])
    ours = sampled(lambda x, sigma: denoise(x, sigma, torch.zeros(2)), samplers.make("euler"), sigmas)
    torch.testing.assert_close(ours, sampled(LAW.denoise, samplers.make("euler"), sigmas), atol=2e-3, rtol=0)


def test_sampling_a_perfect_network_follows_the_exact_flow():
    denoise = NetworkDenoiser.of(ExactNetwork(MODELS["v"]), MODELS["v"])
    sigmas = samplers.grid("karras", steps=60, levels=LEVELS)
    x = LEVELS.sigma_max * torch.randn(2, 4, 1, 1, dtype=torch.float64)
    got = samplers.run(samplers.make("heun"), lambda x, sigma: denoise(x, sigma, torch.zeros(2)), x, sigmas)
    torch.testing.assert_close(got, LAW.flow(x, sigmas[0], 0.0), atol=3e-3, rtol=0)
