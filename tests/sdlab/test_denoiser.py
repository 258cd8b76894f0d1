"""Networks in the σ clock: a network that knows the data's law must become that law's exact denoiser."""

import pytest
import torch

import samplers
from samplers.exact.problems import Gaussian
from sdlab.denoiser import NetworkDenoiser
from sdlab.model.config import SCENES, SD15
from sdlab.model.diffusion import Unet

LEVELS = samplers.discrete_levels()
LAW = Gaussian(std=0.7, mean=0.3)


class ExactNetwork:
    """What a perfectly trained network returns for `LAW`, in the terms it was trained in: x_unit and t."""

    def __init__(self, prediction, dtype=torch.float64):
        self.prediction, self.dtype, self.seen = prediction, dtype, []

    def __call__(self, unit, t, context):
        self.seen.append(t.tolist())
        sigma = torch.tensor([LEVELS.sigma(s) for s in t.tolist()], dtype=torch.float64).view(-1, 1, 1, 1)
        alpha = (1 + sigma**2) ** -0.5
        x = unit.double() / alpha
        x0 = LAW.denoise(x, sigma.flatten())
        eps = (x - x0) / sigma
        return (eps if self.prediction == "eps" else alpha * eps - alpha * sigma * x0).to(self.dtype)


@pytest.mark.parametrize("prediction", ["eps", "v"])
@pytest.mark.parametrize("sigma", [0.05, 0.8, 3.7, 14.0])
def test_a_perfect_network_becomes_the_exact_denoiser(prediction, sigma):
    x = sigma * torch.randn(3, 4, 2, 2, dtype=torch.float64)
    denoise = NetworkDenoiser(ExactNetwork(prediction), LEVELS, prediction)
    # Timesteps pass through float32, so σ is known to about 1e-7 of the table's 1000 steps.
    torch.testing.assert_close(denoise(x, sigma, torch.zeros(3)), LAW.denoise(x, sigma), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("prediction", ["eps", "v"])
def test_each_image_may_have_its_own_level(prediction):
    x, sigma = torch.randn(3, 4, 2, 2), torch.tensor([0.1, 1.0, 10.0])
    denoise = NetworkDenoiser(ExactNetwork(prediction), LEVELS, prediction)
    each = [denoise(x[i : i + 1], sigma[i].item(), torch.zeros(1)) for i in range(3)]
    torch.testing.assert_close(denoise(x, sigma, torch.zeros(3)), torch.cat(each))


def test_the_network_gets_fractional_timesteps():
    network = ExactNetwork("eps")
    sigma = LEVELS.sigma(499.25)
    NetworkDenoiser(network, LEVELS, "eps")(torch.zeros(2, 4, 1, 1), sigma, torch.zeros(2))
    assert network.seen[0] == pytest.approx([499.25] * 2, abs=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_answer_has_the_dtype_of_the_state(dtype):
    unet = Unet(SCENES.unet).to(torch.bfloat16).eval()
    denoise = NetworkDenoiser.of(unet, SCENES)
    x = torch.randn(2, *SCENES.latent_shape, dtype=dtype)
    with torch.no_grad():
        for sigma in (0.5, torch.tensor([0.5, 2.0])):
            assert denoise(x, sigma, torch.randn(2, SCENES.text.context_length, 128)).dtype == dtype


@pytest.mark.parametrize("config", [SD15, SCENES], ids=lambda c: c.name)
def test_levels_and_prediction_come_from_the_configuration(config):
    denoise = NetworkDenoiser.of(ExactNetwork("eps"), config)
    assert denoise.prediction == config.prediction
    levels = config.levels
    assert denoise.levels == samplers.discrete_levels(levels.betas, levels.start, levels.end, levels.n)


def test_sampling_a_perfect_network_follows_the_exact_flow():
    denoise = NetworkDenoiser(ExactNetwork("v"), LEVELS, "v")
    sigmas = samplers.grid("karras", steps=60, levels=LEVELS)
    x = LEVELS.sigma_max * torch.randn(2, 4, 1, 1, dtype=torch.float64)
    got = samplers.run(samplers.make("heun"), lambda x, sigma: denoise(x, sigma, torch.zeros(2)), x, sigmas)
    torch.testing.assert_close(got, LAW.flow(x, sigmas[0], 0.0), atol=3e-3, rtol=0)
