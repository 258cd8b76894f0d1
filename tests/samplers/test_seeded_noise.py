"""Image i depends on seed i alone."""

import math

import pytest
import torch
from sampler_problems import PLAIN, SD

import samplers
from samplers.exact.problems import Gaussian

GRID = samplers.grid("karras", steps=6, levels=SD)
DATA = Gaussian(std=0.7, mean=0.2)


def generate(name, seeds, shape=(3, 5, 7), dtype=torch.float32):
    noise = samplers.seeded(seeds)
    x = noise(torch.empty(len(seeds), *shape, dtype=dtype)) * GRID[0]
    return samplers.run(samplers.make(name), DATA.denoise, x, GRID, noise=noise)


@pytest.mark.parametrize("name", PLAIN)
def test_a_batch_of_eight_is_eight_batches_of_one(name):
    seeds = [5, 0, 2**40, 17, 3, 2**100, 1, 9]
    alone = torch.cat([generate(name, [seed]) for seed in seeds])
    assert torch.equal(generate(name, seeds), alone)


@pytest.mark.parametrize("name", PLAIN)
def test_the_order_of_a_batch_does_not_matter(name):
    assert torch.equal(generate(name, [7, 8, 9]), generate(name, [9, 7, 8])[[1, 2, 0]])


def test_the_noise_is_that_of_pytorch():
    noise, like, theirs = samplers.seeded([42]), torch.empty(1, 4, 8, 8), torch.Generator().manual_seed(42)
    for _ in range(3):
        assert torch.equal(noise(like), torch.randn(like.shape, generator=theirs))


def test_seeds_that_share_their_low_bits_are_different_images():
    numbers = [1, 1 + 2**32, 1 + 2**64, 1 + 2**200]
    draws = samplers.seeded(numbers)(torch.empty(len(numbers), 100))
    assert torch.corrcoef(draws).fill_diagonal_(0).abs().max() < 0.5


def test_no_draw_repeats_another():
    """Start, steps and images: 30 rows of 4096 numbers, whose correlations stay within five standard errors of zero."""
    noise, like = samplers.seeded([0, 1, 2]), torch.empty(3, 4096)
    rows = torch.cat([noise(like) for _ in range(10)])
    assert torch.corrcoef(rows).fill_diagonal_(0).abs().max() < 5 / math.sqrt(4096)


def test_noise_is_standard_normal():
    draws = samplers.seeded([12])(torch.empty(1, 100_000, dtype=torch.float64)).flatten()
    n = len(draws)
    assert abs(draws.mean()) < 4 / math.sqrt(n)
    assert abs(draws.var() - 1) < 4 * math.sqrt(2 / n)
    assert abs((draws**4).mean() - 3) < 4 * math.sqrt(96 / n)
    assert abs(draws[:-1] @ draws[1:] / n) < 4 / math.sqrt(n)


def test_noise_does_not_depend_on_dtype_or_layout():
    like = torch.empty(2, 4, 6, 6)
    plain = samplers.seeded([1, 2])(like)
    double = samplers.seeded([1, 2])(like.double())
    last = samplers.seeded([1, 2])(like.to(memory_format=torch.channels_last))
    assert double.dtype == torch.float64
    assert torch.equal(double, plain.double())
    assert torch.equal(last, plain)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_noise_does_not_depend_on_the_device():
    like = torch.empty(2, 4, 6, 6)
    on_device = samplers.seeded([1, 2])(like.cuda())
    assert on_device.is_cuda
    assert torch.equal(on_device.cpu(), samplers.seeded([1, 2])(like))


def test_noise_is_returned_on_the_requested_device():
    assert samplers.seeded([1], device="meta")(torch.empty(1, 3)).is_meta


def test_one_seed_per_image():
    with pytest.raises(ValueError, match=r"2 seeds for x of shape \(3, 4\): there must be one seed per image"):
        samplers.seeded([1, 2])(torch.empty(3, 4))


def test_seeds_are_not_negative():
    with pytest.raises(ValueError, match="a seed must be an integer of at least 0, got -3"):
        samplers.seeded([1, -3])
