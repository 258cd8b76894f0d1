"""The reference solver against exact flows, and the network's reference against it."""

from itertools import pairwise

import pytest
import torch
from sampler_problems import MIXTURE, SD, SPECTRUM, Counting, start

import samplers

PROBLEMS = pytest.mark.parametrize("problem", [SPECTRUM, MIXTURE], ids=["gaussian", "mixture"])
KARRAS = samplers.grid("karras", steps=10, levels=SD)


@PROBLEMS
def test_the_reference_is_the_exact_flow(problem):
    x = start(4, *problem.marginal_mean(1.0).shape, sigma=12.0)
    got = samplers.reference(problem.denoise, x, (12.0, 3.0, 0.02))
    torch.testing.assert_close(got, problem.flow(x, 12.0, 0.02), atol=1e-8, rtol=1e-8)


@PROBLEMS
def test_a_step_to_zero_is_an_euler_step(problem):
    x = start(4, *problem.marginal_mean(1.0).shape, sigma=SD.sigma_max)
    expected = problem.denoise(problem.flow(x, SD.sigma_max, SD.sigma_min), SD.sigma_min)
    torch.testing.assert_close(samplers.reference(problem.denoise, x, KARRAS), expected, atol=1e-8, rtol=1e-8)
    torch.testing.assert_close(samplers.converged(problem.denoise, x, KARRAS), expected, atol=1e-8, rtol=1e-8)


@PROBLEMS
@pytest.mark.parametrize("name", ["dpmpp_3s", "dpmpp_2m", "heun", "lms", "pndm", "dpm_adaptive"])
def test_samplers_on_finer_and_finer_grids_come_to_the_reference(name, problem):
    x, gaps = start(4, *problem.marginal_mean(1.0).shape, sigma=SD.sigma_max), []
    truth = samplers.reference(problem.denoise, x, KARRAS[:-1])
    for steps in (10, 50, 250):
        sigmas = samplers.grid("karras", steps=steps, levels=SD, ending="stop_at_sigma_min")
        got = samplers.run(samplers.make(name), problem.denoise, x, sigmas)
        gaps.append((got - truth).abs().max().item())
    assert gaps[0] > 8 * gaps[1] > 64 * gaps[2]


def test_in_float32_the_networks_reference_keeps_its_digits():
    x = start(4, 2, sigma=SD.sigma_max)
    got = samplers.converged(MIXTURE.denoise, x.float(), KARRAS)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got.double(), samplers.reference(MIXTURE.denoise, x, KARRAS), atol=1e-4, rtol=1e-4)


def test_grids_of_one_step_and_batches_of_none():
    x = start(2, 3, sigma=5.0)
    for solve in (samplers.reference, samplers.converged):
        assert torch.equal(solve(SPECTRUM.denoise, x, (5.0, 0.0)), SPECTRUM.denoise(x, 5.0))
        assert solve(SPECTRUM.denoise, x[:0], (5.0, 1.0, 0.0)).shape == (0, 3)
        with pytest.raises(ValueError, match="sigmas must hold at least one step"):
            solve(SPECTRUM.denoise, x, (5.0,))


def test_converged_makes_the_requested_number_of_calls():
    counting = Counting(MIXTURE.denoise)
    samplers.converged(counting, start(1, 2, sigma=SD.sigma_max), KARRAS, steps=40)
    assert len(counting.levels) == 40 + 12 + 1  # the cut-up first step, and the one to zero


def test_an_eased_grid_keeps_its_levels():
    eased = samplers.eased(KARRAS, halvings=5)
    assert [sigma for sigma in eased if sigma in KARRAS] == list(KARRAS)
    assert all(a > b for a, b in pairwise(eased))
    assert len(eased) == len(KARRAS) + 5
    with pytest.raises(ValueError, match="leads to 0"):
        samplers.eased((1.0, 0.0))


def test_a_denoiser_that_is_not_finite_is_reported():
    with pytest.raises(RuntimeError, match=r"no reference from sigma 5.0 to 1.0: not finite at sigma 5$"):
        samplers.reference(lambda x, sigma: x * float("nan"), start(1, 2, sigma=5.0), (5.0, 1.0))
