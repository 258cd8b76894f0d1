"""What a step costs beyond the network: latents of one 512×512 image and a denoiser that costs nothing.

    pytest tests/benchmarks/test_sampler_overhead.py --benchmark-enable

The tables are for runs of STEPS steps; the ratios are what matters, and the time of a step is in `extra_info`.
"""

from math import inf
from time import perf_counter

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


@pytest.mark.benchmark(group=f"the sampler alone, {STEPS} steps")
@pytest.mark.parametrize("name", [name for name in samplers.SAMPLERS if not name.endswith("_cfg_pp")])
def test_a_run_with_ready_noise(benchmark, name):
    sampler, sigmas = samplers.make(name), samplers.grid("karras", steps=STEPS, levels=LEVELS)
    x, x0, z = torch.randn(SHAPE) * sigmas[0], torch.randn(SHAPE), torch.randn(SHAPE)
    measure(benchmark, lambda: samplers.run(sampler, lambda x, sigma: x0, x, sigmas, noise=lambda x: z))


@pytest.mark.benchmark(group=f"the sampler and its noise, {STEPS} steps")
@pytest.mark.parametrize("name", [name for name in samplers.SAMPLERS if samplers.make(name).stochastic])
def test_a_run_with_seeded_noise(benchmark, name):
    sampler, sigmas = samplers.make(name), samplers.grid("karras", steps=STEPS, levels=LEVELS)
    x, x0, noise = torch.randn(SHAPE) * sigmas[0], torch.randn(SHAPE), samplers.seeded([0])
    measure(benchmark, lambda: samplers.run(sampler, lambda x, sigma: x0, x, sigmas, noise=noise))


@pytest.mark.benchmark(group="making a grid of 50 steps")
@pytest.mark.parametrize("name", sorted(set(samplers.GRIDS) - {"explicit"}))
def test_making_a_grid(benchmark, name):
    assert len(benchmark(lambda: samplers.grid(name, steps=STEPS, levels=LEVELS))) == STEPS + 1


# The same samplers elsewhere: diffusers' schedulers, and loops that hold σ in tensors, as k-diffusion's do.

CONTEST = {
    "euler": ("EulerDiscreteScheduler", {}),
    "dpmpp_2m": ("DPMSolverMultistepScheduler", {}),
    "ddim": ("DDIMScheduler", {"clip_sample": False}),
    "ddpm": ("DDPMScheduler", {"clip_sample": False}),
    "unipc": ("UniPCMultistepScheduler", {}),
}


def elsewhere(name, eps, x):
    """A run of diffusers' scheduler, after a reset of its step counter."""
    schedulers = pytest.importorskip("diffusers.schedulers")
    other, config = CONTEST[name]
    scheduler = getattr(schedulers, other)(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, **config)
    scheduler.set_timesteps(STEPS)

    def run():
        sample = x
        for t in scheduler.timesteps:
            sample = scheduler.step(eps, t, sample, return_dict=False)[0]
        return sample

    return run, lambda: scheduler.set_timesteps(STEPS)


def tensor_euler(denoise, x, sigmas):
    ones = x.new_ones([len(x)])
    for i in range(len(sigmas) - 1):
        denoised = denoise(x, sigmas[i] * ones)
        d = (x - denoised) / sigmas[i]
        x = x + d * (sigmas[i + 1] - sigmas[i])
    return x


def tensor_dpmpp_2m(denoise, x, sigmas):
    ones, last = x.new_ones([len(x)]), None
    for i in range(len(sigmas) - 1):
        denoised = denoise(x, sigmas[i] * ones)
        lam, lam_next = -sigmas[i].log(), -sigmas[i + 1].log()
        h, d = lam_next - lam, denoised
        if last is not None and sigmas[i + 1] > 0:
            r = (lam + sigmas[i - 1].log()) / h
            d = (1 + 1 / (2 * r)) * denoised - (1 / (2 * r)) * last
        x = (sigmas[i + 1] / sigmas[i]) * x - torch.expm1(-h) * d
        last = denoised
    return x


# k-diffusion has no DDPM; DDIM is its Euler by another name.
TENSOR_LOOPS = {"euler": tensor_euler, "dpmpp_2m": tensor_dpmpp_2m, "ddim": tensor_euler}


def seconds(runs, rounds):
    """The best time of each of `runs` (a run, and what to do before it), taken in turns so that load hits all alike."""
    best = [inf] * len(runs)
    for _ in range(rounds):
        for i, (run, before) in enumerate(runs):
            before()
            start = perf_counter()
            run()
            best[i] = min(best[i], perf_counter() - start)
    return best


@pytest.mark.benchmark(group="the same sampler elsewhere")
@pytest.mark.parametrize("name", CONTEST)
def test_a_step_costs_at_most_half_of_the_best_other_implementation(benchmark, name):
    """With benchmarks enabled the claim is tested; without, that the contestants run."""
    sampler, sigmas = samplers.make(name), samplers.grid("karras", steps=STEPS, levels=LEVELS)
    x, x0, eps = torch.randn(SHAPE) * sigmas[0], torch.randn(SHAPE), torch.randn(SHAPE)
    in_tensor = torch.tensor(sigmas)
    runs = [
        (lambda: samplers.run(sampler, lambda x, sigma: x0, x, sigmas, noise=torch.randn_like), lambda: None),
        elsewhere(name, eps, x),
    ]
    if name in TENSOR_LOOPS:
        runs.append((lambda: TENSOR_LOOPS[name](lambda x, sigma: x0, x, in_tensor), lambda: None))
    with torch.no_grad():
        for run, before in runs:
            before()
            assert run().isfinite().all()
        benchmark(runs[0][0])
        if not benchmark.stats:
            return
        ours, *others = seconds(runs, rounds=40)
    benchmark.extra_info.update(ours=ours / STEPS * 1e6, others=[other / STEPS * 1e6 for other in others])
    print(f"\n{name}: {ours / STEPS * 1e6:.1f} µs per step, elsewhere {[f'{o / STEPS * 1e6:.1f}' for o in others]}")
    assert ours <= min(others) / 2
