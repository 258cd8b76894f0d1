"""What a step costs beyond the network: latents of one 512×512 image and a denoiser that costs nothing.

    pytest tests/benchmarks/test_sampler_overhead.py --benchmark-enable

The tables are for runs of STEPS steps; the ratios are what matters, and the time of a step is in `extra_info`.
"""

import pytest
import torch

import samplers

SHAPE, STEPS = (1, 4, 64, 64), 50
LEVELS = samplers.discrete_levels()


def measure(benchmark, run):
    assert run().isfinite().all()
    benchmark(run)
    if benchmark.stats:  # none where benchmarks are disabled
        benchmark.extra_info["microseconds_per_step"] = benchmark.stats.stats.median / STEPS * 1e6


@pytest.mark.benchmark(group=f"the rule alone, {STEPS} steps")
@pytest.mark.parametrize("name", samplers.SAMPLERS)
def test_a_run_with_ready_noise(benchmark, name):
    rule, sigmas = samplers.make(name), samplers.grid("karras", steps=STEPS, levels=LEVELS)
    x, x0, z = torch.randn(SHAPE) * sigmas[0], torch.randn(SHAPE), torch.randn(SHAPE)
    measure(benchmark, lambda: samplers.run(rule, lambda x, sigma: x0, x, sigmas, noise=lambda x: z))


@pytest.mark.benchmark(group=f"the rule and its noise, {STEPS} steps")
@pytest.mark.parametrize("name", [name for name in samplers.SAMPLERS if samplers.make(name).stochastic])
def test_a_run_with_seeded_noise(benchmark, name):
    rule, sigmas = samplers.make(name), samplers.grid("karras", steps=STEPS, levels=LEVELS)
    x, x0, noise = torch.randn(SHAPE) * sigmas[0], torch.randn(SHAPE), samplers.seeded([0])
    measure(benchmark, lambda: samplers.run(rule, lambda x, sigma: x0, x, sigmas, noise=noise))


@pytest.mark.benchmark(group="making a grid of 50 steps")
@pytest.mark.parametrize("name", samplers.GRIDS)
def test_making_a_grid(benchmark, name):
    assert len(benchmark(lambda: samplers.grid(name, steps=STEPS, levels=LEVELS))) == STEPS + 1
