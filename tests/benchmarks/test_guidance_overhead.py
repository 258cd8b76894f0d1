"""What a guided call costs beyond its network passes, beside the guiders of diffusers: latents of 512×512 images.

    pytest tests/benchmarks/test_guidance_overhead.py --benchmark-enable

The network costs nothing: it returns predictions that are ready. A run has `CALLS` calls, as many as 20 steps need.
sdlab joins both predictions in one network call, for which x is copied, and keeps images apart that need other queries.
The guiders get their predictions from two calls. `rescale` and `cfg_zero` also convert predictions to their space,
where diffusers takes the raw output of the network. Neither side's `cfg_zero` has zero steps, which cost nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from time import process_time

import pytest
import torch
from torch import Tensor

from sdlab import guidance

CALLS, CONTEXT = 20, (77, 768)
LIMITS = {("cfg_zero", 4): 1.15}  # times the time of diffusers, otherwise 1; here the copy and the conversion show
CONTEST = {
    "cfg": ("ClassifierFreeGuidance", {"guidance_scale": 5.0}),
    "apg": (
        "AdaptiveProjectedGuidance",
        {"guidance_scale": 5.0, "eta": 0.0, "adaptive_projected_guidance_momentum": -0.5},
    ),
    "cfg_zero": ("ClassifierFreeZeroStarGuidance", {"guidance_scale": 5.0, "zero_init_steps": 0}),
    "rescale": ("ClassifierFreeGuidance", {"guidance_scale": 5.0, "guidance_rescale": 0.7}),
    "tcfg": ("TangentialClassifierFreeGuidance", {"guidance_scale": 5.0}),
}


def ours(name: str, x: Tensor, contexts: tuple[Tensor, Tensor], ready: Tensor) -> Callable[[], Tensor]:
    """A run of the strategy."""
    strategy = guidance.make(name, scale=5.0)

    def run() -> Tensor:
        denoise = guidance.Guided(strategy, lambda *_: ready, dict(zip(("cond", "uncond"), contexts, strict=True)))
        for i in range(CALLS):
            out = denoise(x, 10.0 / (i + 1))
        return out

    return run


def elsewhere(name: str, x: Tensor, contexts: tuple[Tensor, Tensor], ready: Tensor) -> Callable[[], Tensor]:
    """A run of diffusers' guider, driven as its pipelines do. It gets the predictions one by one."""
    guiders = pytest.importorskip("diffusers.guiders")
    kind, options = CONTEST[name]
    guider, network = getattr(guiders, kind)(**options), torch.nn.Identity()
    times, predictions = torch.arange(CALLS).flip(0), ready.chunk(2)

    def run() -> Tensor:
        for i, time in enumerate(times):
            guider.set_state(step=i, num_inference_steps=CALLS, timestep=time)
            states = guider.prepare_inputs({"encoder_hidden_states": contexts})
            for state, prediction in zip(states, predictions, strict=True):
                guider.prepare_models(network)
                state.noise_pred = prediction
                guider.cleanup_models(network)
            out = guider(states)[0]
        return out

    return run


def seconds(runs: list[Callable[[], Tensor]], rounds: int) -> list[float]:
    """The least processor time of each run, in turns so that other load hits all alike."""
    best = [inf] * len(runs)
    for _ in range(rounds):
        for i, run in enumerate(runs):
            start = process_time()
            run()
            best[i] = min(best[i], process_time() - start)
    return best


@pytest.mark.benchmark(group="guidance beyond the network")
@pytest.mark.parametrize("images", [1, 4])
@pytest.mark.parametrize("name", CONTEST)
def test_a_guided_call_costs_little_beside_one_of_diffusers(benchmark, name: str, images: int):
    """With benchmarks enabled the claim is tested; without, that the contestants run."""
    x, ready = torch.randn(images, 4, 64, 64), torch.randn(2 * images, 4, 64, 64)
    contexts = torch.randn(images, *CONTEXT), torch.randn(images, *CONTEXT)
    with torch.no_grad():
        runs = [make(name, x, contexts, ready) for make in (ours, elsewhere)]
        assert all(run().isfinite().all() for run in runs)
        benchmark(runs[0])
        if not benchmark.stats:
            return
        mine, other = (one / CALLS * 1e6 for one in seconds(runs, rounds=60))
    benchmark.extra_info.update(ours=mine, diffusers=other, ratio=mine / other)
    print(f"\n{name}, {images} images: {mine:.0f} µs per call, diffusers {other:.0f}")
    assert mine <= LIMITS.get((name, images), 1.0) * other
