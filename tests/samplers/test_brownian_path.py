"""Noise with an address: counter-based draws, and the Brownian path whose increments steps take."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sampler_problems import SD

import samplers
from samplers.brownian import increment
from samplers.exact.problems import Gaussian

GRID = samplers.grid("karras", steps=6, levels=SD)
DATA = Gaussian(std=0.7, mean=0.2)
EXACT = settings(deadline=None, database=None)
KINDS = pytest.mark.parametrize("kind", [samplers.philox, samplers.brownian_path])
SEEDS = [5, 0, 2**40, 17, 2**128 + 17, 2**300]

sigma = st.floats(1e-4, 1e4)
# Levels far enough from each other to lie in leaves of their own.
levels = (
    st.lists(sigma, min_size=3, max_size=6)
    .map(lambda values: sorted(values, reverse=True))
    .filter(lambda values: all(a > b * (1 + 1 / 2048) for a, b in itertools.pairwise(values)))
)


def dot(a, b):
    return sum(weight * b.get(address, 0.0) for address, weight in a.items())


def spread(high, low):
    """σ⁺ √(1 − σ⁺²/σ²), the deviation that noise of the step from `high` adds at `low`."""
    return low * math.sqrt((1 - low / high) * (1 + low / high))


# The weights of an increment on independent normals: its law, exactly.


@EXACT
@given(levels)
def test_an_increment_has_unit_variance(grid):
    for high, low in itertools.combinations(grid, 2):
        weights = increment(high, low)
        assert dot(weights, weights) == pytest.approx(1, abs=1e-9)


@EXACT
@given(levels)
def test_increments_of_steps_that_do_not_overlap_are_independent(grid):
    steps = [increment(high, low) for high, low in itertools.pairwise(grid)]
    for one, other in itertools.combinations(steps, 2):
        assert dot(one, other) == pytest.approx(0, abs=1e-9)


@EXACT
@given(levels)
def test_increments_of_overlapping_steps_share_the_overlap(grid):
    """Cov[z_ac, z_bd] of steps a → c and b → d with a > b > c > d is the clock's time from b to c over both lengths."""
    a, b, c = grid[:3]
    d = c / 3
    clock = [1 / level**2 for level in (a, b, c, d)]
    expected = (clock[2] - clock[1]) / math.sqrt((clock[2] - clock[0]) * (clock[3] - clock[1]))
    assert dot(increment(a, c), increment(b, d)) == pytest.approx(expected, abs=1e-9)


@EXACT
@given(levels)
def test_increments_add_up(grid):
    (a, b, c), whole = grid[:3], increment(grid[0], grid[2])
    first, second = increment(a, b), increment(b, c)
    for address in {*first, *second, *whole}:
        parts = (c / b) ** 2 * spread(a, b) * first.get(address, 0) + spread(b, c) * second.get(address, 0)
        assert parts == pytest.approx(spread(a, c) * whole.get(address, 0), abs=1e-9 * spread(a, c))


@EXACT
@given(sigma, st.floats(-16, -1))
def test_steps_of_any_length_have_unit_variance(high, exponent):
    low = high * (1 - 10**exponent)
    weights = increment(high, low)
    assert dot(weights, weights) == pytest.approx(1, abs=1e-7)


# The numbers themselves.


@settings(EXACT, max_examples=20)
@given(levels, st.randoms(use_true_random=False))
def test_the_path_does_not_depend_on_the_order_of_calls(grid, random):
    like, steps = torch.empty(2, 3, dtype=torch.float64), list(itertools.combinations(grid, 2))
    first, second = samplers.brownian_path([1, 2]), samplers.brownian_path([1, 2])
    asked = {step: first.between(*step, like) for step in steps}
    shuffled = random.sample(steps, len(steps))
    assert all(torch.equal(second.between(*step, like), asked[step]) for step in shuffled)


@settings(EXACT, max_examples=20)
@given(levels)
def test_the_path_of_many_steps_is_that_of_one(grid):
    noise, like = samplers.brownian_path([3]), torch.empty(1, 5, dtype=torch.float64)
    total = torch.zeros(1, 5, dtype=torch.float64)
    for high, low in itertools.pairwise(grid):
        total = (low / high) ** 2 * total + spread(high, low) * noise.between(high, low, like)
    one = spread(grid[0], grid[-1]) * noise.between(grid[0], grid[-1], like)
    torch.testing.assert_close(total, one, atol=1e-8 * grid[-1], rtol=0)


def test_increments_are_standard_normal_and_uncorrelated():
    """Steps of many lengths, 20,000 numbers each: five standard errors of mean, variance, kurtosis, correlation."""
    n, grid = 20_000, [30.0, 11.0, 10.9, 3.0, 1.0, 0.999, 0.5, 0.01]
    noise, like = samplers.brownian_path([12]), torch.empty(1, n, dtype=torch.float64)
    rows = torch.cat([noise(like), *(noise.between(a, b, like) for a, b in itertools.pairwise(grid))])
    assert (rows.mean(1).abs() < 5 / math.sqrt(n)).all()
    assert ((rows.var(1) - 1).abs() < 5 * math.sqrt(2 / n)).all()
    assert (((rows**4).mean(1) - 3).abs() < 5 * math.sqrt(96 / n)).all()
    assert torch.corrcoef(rows).fill_diagonal_(0).abs().max() < 5 / math.sqrt(n)


def draw(kind, seeds, shape=(3, 5), dtype=torch.float32):
    noise, like = kind(seeds), torch.empty(len(seeds), *shape, dtype=dtype)
    draws = [noise(like), noise(like)]
    if kind is samplers.brownian_path:
        draws += [noise.between(3.0, 2.0, like), noise.between(2.0, 0.3, like), noise.between(1.0, 1 - 1e-12, like)]
    return torch.stack(draws, 1)


@KINDS
def test_an_image_depends_on_its_seed_alone(kind):
    together = draw(kind, SEEDS)
    assert torch.equal(together, torch.cat([draw(kind, [seed]) for seed in SEEDS]))
    assert torch.equal(draw(kind, SEEDS[::-1]), together.flip(0))


@KINDS
def test_other_seeds_and_draws_are_other_noise(kind):
    rows = draw(kind, SEEDS, shape=(2000,)).flatten(0, 1)
    assert torch.corrcoef(rows).fill_diagonal_(0).abs().max() < 5 / math.sqrt(2000)


@KINDS
def test_noise_does_not_depend_on_dtype_or_layout(kind):
    plain = draw(kind, [1, 2], (4, 6, 6))
    assert torch.equal(draw(kind, [1, 2], (4, 6, 6), torch.float64).float(), plain)
    like = torch.empty(2, 4, 6, 6).to(memory_format=torch.channels_last)
    assert torch.equal(kind([1, 2])(like), plain[:, 0])


@KINDS
def test_noise_is_returned_on_the_requested_device(kind):
    assert kind([1], device="meta")(torch.empty(1, 3)).is_meta


@KINDS
def test_an_empty_batch_and_images_of_one_value(kind):
    assert kind([])(torch.empty(0, 3)).shape == (0, 3)
    assert torch.equal(kind([7])(torch.empty(1)), kind([7])(torch.empty(1, 1))[0])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@KINDS
def test_noise_does_not_depend_on_the_device(kind):
    like = torch.empty(2, 4, 6)
    on_device = kind([1, 2])(like.cuda())
    assert on_device.is_cuda
    assert torch.equal(on_device.cpu(), kind([1, 2])(like))


def test_the_start_is_the_same_with_and_without_a_path():
    like = torch.empty(2, 9)
    assert torch.equal(samplers.philox([1, 2])(like), samplers.brownian_path([1, 2])(like))


@pytest.mark.parametrize("name", ["ddpm", "dpmpp_sde", "seeds_3", "sa_solver"])
def test_a_batch_on_the_path_is_its_images_one_by_one(name):
    def generate(seeds):
        noise = samplers.brownian_path(seeds)
        x = noise(torch.empty(len(seeds), 3, 5, 7)) * GRID[0]
        return samplers.run(samplers.make(name), DATA.denoise, x, GRID, noise=noise)

    alone = torch.cat([generate([seed]) for seed in SEEDS])
    assert torch.equal(generate(SEEDS), alone)


def test_a_thousand_steps_draw_about_ten_values_each():
    """Neighbouring levels share the upper part of the tree."""
    noise = samplers.brownian_path([0])
    sigmas = samplers.grid("karras", steps=1000, levels=SD)
    seen = set().union(*(increment(a, b) for a, b in itertools.pairwise(sigmas[:-1])))
    assert len(seen) < 13 * 1000
    like = torch.empty(1, 4)
    assert all(noise.between(a, b, like).isfinite().all() for a, b in itertools.pairwise(sigmas[:-1]))


SLIPS = [
    (
        lambda: samplers.brownian_path([1]).between(1.0, 2.0, torch.empty(1, 3)),
        "a Brownian path needs 0 < sigma_next <= sigma",
    ),
    (lambda: samplers.brownian_path([1]).between(1.0, 0.0, torch.empty(1, 3)), "got 1.0 and 0.0"),
    (lambda: samplers.brownian_path([1]).between(math.inf, 1.0, torch.empty(1, 3)), "got inf and 1.0"),
    (lambda: samplers.brownian_path([1, 2]).between(2.0, 1.0, torch.empty(3, 4)), "2 seeds for x of shape (3, 4)"),
    (lambda: samplers.philox([1, 2])(torch.empty(3, 4)), "2 seeds for x of shape (3, 4)"),
    (lambda: samplers.philox([1, -3]), "a seed must be an integer of at least 0, got -3"),
]


@pytest.mark.parametrize(("slip", "line"), SLIPS)
def test_a_mistake_is_reported_in_one_line(slip, line):
    with pytest.raises(ValueError) as caught:
        slip()
    assert line in str(caught.value)
